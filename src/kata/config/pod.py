"""What a pod's annotations change. They are a tenant's words: nothing is taken that the operator did not allow.

Every annotation below `io.katacontainers.config.` must match one of `enable_annotations` as a whole, whichever table
it is for (upstream gates the hypervisor's alone, and by unanchored patterns). Paths must besides be allowed by a list
of globs, or lie in a folder that the operator's own assets are in. `config_path` is refused always (CVE-2026-50540).
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from fnmatch import fnmatchcase

from kata import paths
from kata.config.finding import ANNOTATION, Findings
from kata.config.index import Entry, by_annotation, nearest
from kata.config.kinds import BadValueError, brief
from kata.config.model import Draft, Origin
from kata.config.setting import PREFIX, AnySetting
from kata.config.settings import Hypervisor

CONFIG_PATH = "io.katacontainers.config_path"
HASH_TYPE = "io.katacontainers.asset_hash_type"
REFUSED = {
    CONFIG_PATH: "only the operator chooses the configuration file",
    PREFIX + "config_path": "only the operator chooses the configuration file",
    PREFIX + "hypervisor.virtio_fs_extra_args": "a pod cannot give options to virtiofsd (CVE-2026-44210)",
    PREFIX + "runtime.sandbox_bind_mounts": "a pod cannot choose paths of the host",
}
ADVISED = 20
"""A tenant may write ten thousand annotations, and what each could have meant takes milliseconds to find."""
ASSET_FOLDERS = ("/usr/share/kata-containers", "/opt/kata/share/kata-containers")
"""Where upstream's packages put guest kernels and images."""


def apply(draft: Draft, given: Mapping[str, str], findings: Findings) -> None:
    """Lay a pod's annotations over the draft, in the order of their names. What is wrong goes to `findings`."""
    enabled = draft.get(Hypervisor.enable_annotations)
    folders = _asset_folders(draft)
    accepted: dict[str, tuple[str, object]] = {}
    for name in sorted(given):
        problem = _problem(name, given[name], enabled, advise=len(findings.all) < ADVISED)
        entry = by_annotation().get(name)
        if problem:
            findings.error(name, *problem, where=ANNOTATION)
        elif entry is not None:
            try:
                accepted[name] = (entry[0].name, _value(draft, entry, given[name], folders))
            except BadValueError as error:
                findings.error(name, error.why, error.hint, ANNOTATION)
    for name, (_, value) in accepted.items():
        draft.set(by_annotation()[name][0], value, Origin("annotation", name))
    _follow_up(draft, accepted)


def is_enabled(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether one of the patterns matches the annotation `name` as a whole, without PREFIX.

    The hypervisor's also match without `hypervisor.`, as upstream's operators write them.
    """
    own = name.startswith(PREFIX)
    words = [name.removeprefix(PREFIX) if own else by_annotation()[name][0].name]
    if words[0].startswith("hypervisor."):
        words.append(words[0].removeprefix("hypervisor."))
    return any(re.fullmatch(pattern, word) for pattern in patterns for word in words)


def is_allowed_path(path: str, globs: tuple[str, ...]) -> bool:
    """Whether `path`, all links resolved, is what one of the globs says. A `*` does not cross a `/`."""
    real = os.path.realpath(path).split("/")
    for glob in globs:
        parts = _resolved(glob).split("/")
        if len(parts) == len(real) and all(_matches(part, word) for part, word in zip(parts, real, strict=True)):
            return True
    return False


def _problem(name: str, value: str, enabled: tuple[str, ...], *, advise: bool) -> tuple[str, str] | None:
    """Why an annotation is refused and what to do; None when it is fine, or is none of ours."""
    if name in REFUSED:
        return REFUSED[name], "remove the annotation"
    if name == HASH_TYPE and value != "sha512":
        return f"{brief(value)} is no kind of hash that is known", "give sha512"
    if name not in by_annotation() and not name.startswith(PREFIX):
        return None
    if not is_enabled(name, enabled):
        return "it is not enabled", "the operator allows it by enable_annotations in configuration.toml"
    if name not in by_annotation():
        return "there is no such annotation", nearest(name, by_annotation()) if advise else ""
    return None


def _value(draft: Draft, entry: Entry, text: str, folders: tuple[str, ...]) -> object:
    """The value of one annotation, joined with the operator's where that is its way. Raises BadValueError."""
    setting, kind = entry
    value = kind.from_text(text)
    if setting.asset:
        return _asset(value, folders)
    if setting.allowed_by and value:
        globs = draft.get(getattr(Hypervisor, setting.allowed_by))
        if not is_allowed_path(value, globs):
            raise BadValueError(f"{brief(value)} is not allowed", f"the operator allows it by {setting.allowed_by}")
        if not os.path.exists(value):
            raise BadValueError(f"there is no {brief(value)} on this host")
        return os.path.realpath(value)
    return setting.combine(draft.get(setting), value) if setting.combine else value


def _asset(path: str, folders: tuple[str, ...]) -> str:
    """A file that a VM boots from: a regular one, in a folder with the operator's assets."""
    if not path:
        return path
    real = os.path.realpath(path)
    if os.path.dirname(real) not in folders:
        raise BadValueError(f"{brief(path)} is in no folder for guest assets", f"folders are {', '.join(folders)}")
    try:
        regular = stat.S_ISREG(os.stat(real).st_mode)
    except OSError:
        regular = False
    if not regular:
        raise BadValueError(f"there is no file {brief(path)} on this host")
    return real


def _asset_folders(draft: Draft) -> tuple[str, ...]:
    ours = [draft.get(setting) for setting in _assets()]
    folders = [os.path.dirname(path) for path in ours if path] + [str(paths.assets_dir()), *ASSET_FOLDERS]
    return tuple(dict.fromkeys(os.path.realpath(folder) for folder in folders))


def _assets() -> list[AnySetting]:
    return [setting for setting in Hypervisor.settings() if setting.asset]


def _follow_up(draft: Draft, accepted: Mapping[str, tuple[str, object]]) -> None:
    """What setting one thing means for another: an image instead of an initrd, one place for devices."""
    given = {setting: value for setting, value in accepted.values() if value}
    for one, other in (
        (Hypervisor.image, Hypervisor.initrd),
        (Hypervisor.initrd, Hypervisor.image),
    ):
        if one.name in given and other.name not in given:
            draft.set(other, "", draft.origin(one))
    for port, other in (
        (Hypervisor.hot_plug_vfio, Hypervisor.cold_plug_vfio),
        (Hypervisor.cold_plug_vfio, Hypervisor.hot_plug_vfio),
    ):
        if port.name in given and other.name not in given:
            draft.set(other, "no-port", draft.origin(port))


def _resolved(glob: str) -> str:
    """A glob with the links in its fixed part resolved, as the path it is compared with has them resolved."""
    parts = glob.split("/")
    fixed = next((number for number, part in enumerate(parts) if set(part) & set("*?[")), len(parts))
    base = os.path.realpath("/".join(parts[:fixed]) or "/")
    return "/".join([base.rstrip("/"), *parts[fixed:]])


def _matches(pattern: str, word: str) -> bool:
    # As in a shell: what begins with a dot is not meant by a star.
    return fnmatchcase(word, pattern) and not (word.startswith(".") and not pattern.startswith("."))

"""containerd's config.toml with our runtime in it, and without: pure functions over text.

The text is the operator's: comments and order stay as they are, and ours is one block at its end, between two marks.
A drop-in would be cleaner, but a 1.x containerd lets one replace the whole table of the CRI plugin (its `imports` merge
plugin by plugin, not key by key), and with it everything else that was set there. That the block does nothing but add
the runtime is checked by reading the text before and after.
"""

from __future__ import annotations

import copy
import re
import tomllib
from typing import NamedTuple

from kata.errors import KataError

RUNTIME = "kata"
SHIM_TYPE = "io.containerd.kata.v2"
ANNOTATIONS = ["io.katacontainers.*"]
CRI = {2: "io.containerd.grpc.v1.cri", 3: "io.containerd.cri.v1.runtime"}
"""The CRI plugin's name by the version of the configuration's form: containerd 1.3 and later, 2.0 and later."""

BEGIN = "# kata: begin (kata install containerd --undo takes this out)"
END = "# kata: end"
BLOCK = re.compile(rf"\n?{re.escape(BEGIN)}\n.*?^{re.escape(END)}\n", re.DOTALL | re.MULTILINE)

Table = dict[str, object]


class DocumentError(KataError):
    """The configuration of containerd cannot be edited."""

    layer = "config"


class Edited(NamedTuple):
    """The text after an edit, and whether that is another one."""

    text: str
    changed: bool


def add(text: str) -> Edited:
    """The text with our runtime. Nothing changes when it is there already. Raises DocumentError."""
    plain = remove(text).text
    before = parse(plain)
    version = version_of(before)
    present = _runtimes(copy.deepcopy(before), version).get(RUNTIME)
    if present == runtime():
        return Edited(text, changed=False)
    if present is not None:
        raise DocumentError(
            f"containerd's configuration has a runtime {RUNTIME} already, which is another one",
            hint=f"take the tables that begin with {table_name(version)} out of it first",
        )
    edited = plain + block(version, whole=not before)
    _verify(before, edited, version)
    return Edited(edited, changed=edited != text)


def remove(text: str) -> Edited:
    """The text without our block, byte for byte as it was before, if nobody changed it. Raises DocumentError."""
    with_it, plain = parse(text), BLOCK.sub("", text)
    if plain == text:
        return Edited(text, changed=False)
    try:
        without = tomllib.loads(plain)
        right = without == {} or _stripped(without) == _stripped(with_it)
    except tomllib.TOMLDecodeError:
        right = False
    if not right:
        raise DocumentError(
            "taking our block out of containerd's configuration would change more than that",
            hint=f"something stands below {END!r} that belongs to our table; take the block out by hand",
        )
    return Edited(plain, changed=True)


def parse(text: str) -> Table:
    """The configuration as values. Raises DocumentError."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise DocumentError(f"containerd's configuration is no TOML: {error}") from None


def version_of(config: Table) -> int:
    """The version of its form; an empty one may have any. Raises DocumentError for one that we do not know."""
    version = config.get("version", 1 if config else 2)
    if not isinstance(version, int) or version not in CRI:
        raise DocumentError(
            f"containerd's configuration has the form of version {version}, not 2 or 3",
            hint="containerd config migrate shows it in the newest form",
        )
    return version


def runtime() -> Table:
    """Our runtime's table: annotations of pods and containers reach it, and privileged ones get no devices of ours."""
    return {
        "runtime_type": SHIM_TYPE,
        "privileged_without_host_devices": True,
        "pod_annotations": list(ANNOTATIONS),
        "container_annotations": list(ANNOTATIONS),
    }


def table_name(version: int) -> str:
    """The name of our table, as it stands in the file."""
    return f'plugins."{CRI[version]}".containerd.runtimes.{RUNTIME}'


def block(version: int, *, whole: bool = False) -> str:
    """What is put at the end of the file; `whole` for one that has nothing else, which must say its version."""
    first = f"version = {version}\n" if whole else ""
    annotations = ", ".join(f'"{pattern}"' for pattern in ANNOTATIONS)
    return (
        f"\n{BEGIN}\n{first}"
        f"[{table_name(version)}]\n"
        f'  runtime_type = "{SHIM_TYPE}"\n'
        "  privileged_without_host_devices = true\n"
        f"  pod_annotations = [{annotations}]\n"
        f"  container_annotations = [{annotations}]\n"
        f"{END}\n"
    )


def disables_cri(text: str) -> bool:
    """Whether the plugin that Kubernetes talks to is switched off; `ctr` then still works."""
    disabled = parse(text).get("disabled_plugins", [])
    return isinstance(disabled, list) and bool({"cri", *CRI.values()} & {str(name) for name in disabled})


def _verify(before: Table, text: str, version: int) -> None:
    """Raise DocumentError unless the new text says what the old one said, and our runtime."""
    wanted = copy.deepcopy(before)
    wanted.setdefault("version", version)
    try:
        _runtimes(wanted, version)[RUNTIME] = runtime()
        right = tomllib.loads(text) == wanted
        reason = "the result would not be what it should"
    except (tomllib.TOMLDecodeError, DocumentError) as error:
        right, reason = False, str(error)
    if not right:
        raise DocumentError(
            f"a table cannot be added at the end of containerd's configuration: {reason}",
            hint="an inline table is in the way? write it as [plugins.…] first, or add these lines by hand",
            detail=block(version),
        )


def _stripped(config: Table) -> Table:
    """The values without our runtime, and without the tables around it that are then empty."""
    found = copy.deepcopy(config)
    tables = [found]
    for name in ("plugins", CRI.get(found.get("version"), ""), "containerd", "runtimes", RUNTIME):  # type: ignore[call-overload]
        below = tables[-1].get(name)
        if not isinstance(below, dict):
            break
        tables.append(below)
        if name == RUNTIME:
            below.clear()
    for outer, inner in zip(reversed(tables[:-1]), reversed(tables[1:]), strict=True):
        if not inner:
            for name in [name for name, value in outer.items() if value is inner]:
                del outer[name]
    return found


def _runtimes(config: Table, version: int) -> Table:
    """The table of runtimes within `config`, which is made where it is missing."""
    table = config
    for name in ("plugins", CRI[version], "containerd", "runtimes"):
        below = table.setdefault(name, {})
        if not isinstance(below, dict):
            raise DocumentError(f"{name} in containerd's configuration is no table")
        table = below
    return table

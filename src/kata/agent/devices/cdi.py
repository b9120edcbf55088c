"""CDI in the guest: devices that a container asks for by name, described by files which the guest itself makes.

Called by `batch`. A driver in the guest writes its specification some time after its device came, so this waits: for
the folder, for a file with the kind, for the device nodes, each by inotify. What it gives is a value like a handler's:
it looks at annotations and environment of the container's specification and changes nothing in it.
"""

from __future__ import annotations

import os
import select
import time
from typing import NamedTuple

from kata.agent.devices.cdi_spec import DEVICE, SUFFIXES, CdiSpec, CdiSpecError, Node, parse_kind, read_spec
from kata.agent.devices.context import read_node
from kata.agent.devices.errors import CdiTimeout, DeviceError, InvalidDevice
from kata.agent.edits import AddedNode, Edits, GuestNode
from kata.agent.updates import SpecUpdate
from kata.linux.inotify import Inotify
from kata.linux.syscalls import IN_ATTRIB, IN_CLOSE_WRITE, IN_CREATE, IN_MOVED_TO

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from kata.agent.devices.cdi_spec import ContainerEdits
    from kata.agent.devices.context import CdiSettings
    from kata.oci.spec import Mount, Spec

PREFIX = "cdi.k8s.io/"
VARIABLE = "VISIBLE_CDI_DEVICES"
CONTAINER_TYPE = "io.katacontainers.pkg.oci.container_type"
NOTHING = ("", "none", "void")
MAX_FILES = 256
MAX_INDEX = 0xFFFFFFFF
_CHANGES = IN_CREATE | IN_MOVED_TO | IN_CLOSE_WRITE | IN_ATTRIB


def cdi_updates(spec: Spec, settings: CdiSettings) -> list[SpecUpdate]:
    """What the CDI devices of a container bring, once they are all there; one update or none.

    Raises InvalidDevice for a malformed request, CdiTimeout, DeviceError for a device that its kind does not have.
    """
    names = requested(spec, visible=settings.visible)
    if not names:
        return []
    uid = spec.get("process", {}).get("user", {}).get("uid", 0)
    return [SpecUpdate("", None, edits=wait_for(names, settings, uid or None))]


def requested(spec: Spec, *, visible: bool) -> list[str]:
    """The devices that a container asks for, `<vendor>/<class>=<name>` each: by annotations, and by its environment
    when that is `visible` to us. None for a pod's sandbox container. Raises InvalidDevice.
    """
    annotations = spec.get("annotations", {})
    if annotations.get(CONTAINER_TYPE) == "pod_sandbox":
        return []
    lists = [value for key, value in sorted(annotations.items()) if key.startswith(PREFIX)]
    names = [check_name(name) for text in lists for name in text.split(",")]
    if visible:
        names += visible_devices(spec.get("process", {}).get("env", []))
    return list(dict.fromkeys(names))


def visible_devices(env: Iterable[str]) -> list[str]:
    """The devices in VISIBLE_CDI_DEVICES: `<kind>=<all, or numbers with commas>` with colons between. Raises
    InvalidDevice.
    """
    value = next((entry.partition("=")[2].strip() for entry in env if entry.startswith(f"{VARIABLE}=")), "")
    if value in NOTHING:
        return []
    return [name for entry in value.split(":") for name in _of_kind(entry.strip())]


def check_name(text: str) -> str:
    """The qualified name of a device, when it is one. Raises InvalidDevice."""
    kind, _, name = text.partition("=")
    try:
        parse_kind(kind)
    except CdiSpecError as error:
        raise InvalidDevice(f"{text!r} names no CDI device: {error.what}") from None
    if not DEVICE.fullmatch(name):
        raise InvalidDevice(f"{text!r} names no CDI device (<vendor>/<class>=<name>)")
    return text


def _of_kind(entry: str) -> list[str]:
    kind, _, text = entry.partition("=")
    words = [word.strip() for word in text.split(",")]
    if not kind.strip() or words == [""]:
        raise InvalidDevice(f"invalid {VARIABLE}: {entry!r} is not <kind>=<all, or numbers with commas>")
    if len(words) > 1 and "all" in words:
        raise InvalidDevice(f"invalid {VARIABLE}: {entry!r} has both all and numbers")
    return [check_name(f"{kind.strip()}={word if word == 'all' else _index(word, entry)}") for word in words]


def _index(word: str, entry: str) -> int:
    if not (word.isascii() and word.isdecimal() and len(word) <= 10 and int(word) <= MAX_INDEX):
        raise InvalidDevice(f"invalid {VARIABLE}: {word!r} in {entry!r} is neither all nor a device's number")
    return int(word)


def wait_for(names: Sequence[str], settings: CdiSettings, uid: int | None = None) -> Edits:
    """The edits of these devices, as soon as all are described and their nodes are there. `uid` owns new nodes.

    Raises CdiTimeout with what is wrong in the folder, DeviceError at once for what waiting cannot mend.
    """
    deadline = time.monotonic() + settings.timeout
    poll = select.poll()
    with Inotify() as changes:
        poll.register(changes.fileno(), select.POLLIN)
        while True:
            _watch(changes, settings.folder)
            folder = read_folder(settings.folder)
            chosen = folder.choose(names)
            missing = _missing_nodes(chosen, changes) if chosen else ()
            if chosen and not missing:
                return _merge(chosen, uid)
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                what = missing or [name for name in names if name not in folder.devices]
                raise CdiTimeout(", ".join(what), settings.timeout, folder.problems.values())
            changes.drain()


class Folder(NamedTuple):
    """What the specification files say: device to file and edits, devices that two files have, unusable files."""

    devices: Mapping[str, tuple[CdiSpec, ContainerEdits]]
    twice: Mapping[str, tuple[str, str]]
    problems: Mapping[str, CdiSpecError]

    def choose(self, names: Iterable[str]) -> list[tuple[CdiSpec, ContainerEdits]]:
        """The edits of each device, empty when a kind is not there yet. Raises DeviceError when it never will be."""
        kinds = {name.partition("=")[0] for name in self.devices}
        chosen = []
        for name in names:
            kind = name.partition("=")[0]
            if name in self.twice:
                raise DeviceError(f"the CDI device {name} is in two files: {' and '.join(self.twice[name])}")
            if name in self.devices:
                chosen.append(self.devices[name])
                continue
            for problem in self.problems.values():
                if problem.kind == kind:
                    raise problem
            if kind in kinds:
                known = ", ".join(sorted(other for other in self.devices if other.startswith(f"{kind}=")))
                raise DeviceError(f"the CDI device {name} does not exist; of its kind there are {known}")
        return chosen if len(chosen) == len(list(names)) else []


def read_folder(path: str) -> Folder:
    """All specification files in a folder; none when it is not there."""
    devices: dict[str, tuple[CdiSpec, ContainerEdits]] = {}
    twice: dict[str, tuple[str, str]] = {}
    problems: dict[str, CdiSpecError] = {}
    files = _files(path)
    if len(files) > MAX_FILES:
        problems[path] = CdiSpecError(f"{path} has more than {MAX_FILES} CDI specifications")
    for file in files[:MAX_FILES]:
        try:
            spec = read_spec(file)
        except FileNotFoundError:
            continue
        except CdiSpecError as error:
            problems[file] = error
            continue
        for name, edits in spec.devices.items():
            other = devices.setdefault(f"{spec.kind}={name}", (spec, edits))[0].path
            if other != file:
                twice[f"{spec.kind}={name}"] = (other, file)
    return Folder(devices, twice, problems)


def _files(folder: str) -> list[str]:
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(SUFFIXES))
    except OSError:
        return []
    return [f"{folder}/{name}" for name in names]


def _watch(changes: Inotify, path: str) -> None:
    """Be told when something happens in a folder, or on the way to it as far as there is one."""
    while True:
        nearest = _nearest(path)
        try:
            changes.watch(nearest, _CHANGES)
        except OSError:
            if nearest == _nearest(path):
                raise
            continue
        if nearest == _nearest(path):  # else it came between the look and the watch
            return


def _nearest(path: str) -> str:
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def _missing_nodes(chosen: Iterable[tuple[CdiSpec, ContainerEdits]], changes: Inotify) -> list[str]:
    """Nodes that are not there yet; their folders are watched before they are looked at."""
    missing = []
    for node in (node for spec, edits in chosen for node in (*spec.common.nodes, *edits.nodes) if not node.kind):
        _watch(changes, os.path.dirname(node.host_path))
        if not os.path.exists(node.host_path):
            missing.append(node.host_path)
    return missing


def _merge(chosen: Iterable[tuple[CdiSpec, ContainerEdits]], uid: int | None) -> Edits:
    """All edits in the order in which the devices were asked for; what is common to a file's devices once, first."""
    parts: list[ContainerEdits] = []
    seen: set[str] = set()
    for spec, edits in chosen:
        if spec.path not in seen:
            parts.append(spec.common)
        seen.add(spec.path)
        parts.append(edits)
    mounts: dict[str, Mount] = {mount["destination"]: mount for part in parts for mount in part.mounts}
    return Edits(
        nodes=tuple(_resolve(node, uid) for part in parts for node in part.nodes),
        env=tuple(entry for part in parts for entry in part.env),
        mounts=tuple(mounts.values()),
        hooks=tuple(hook for part in parts for hook in part.hooks),
        gids=tuple(gid for part in parts for gid in part.gids),
    )


def _resolve(node: Node, uid: int | None) -> AddedNode:
    """The node as it is in the guest. Raises DeviceError, InvalidDevice."""
    there = GuestNode(node.kind, node.major, node.minor) if node.kind else read_node(node.host_path)
    owner = uid if node.uid is None else node.uid
    return AddedNode(node.path, there, replace=True, access=node.access, mode=node.mode, uid=owner, gid=node.gid)

"""What is added to a container's specification beside the devices that it names: values, and applying them.

Made by device handlers (RDMA nodes) and by `devices.cdi`; applied by `updates.apply_updates` alone. Pure: on an error
nothing has changed, and the order in which handlers return their nodes does not matter. Never read a file here.
"""

from __future__ import annotations

from typing import NamedTuple

from kata.agent.errors import BadRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from kata.oci.spec import Hook, Hooks, LinuxDevice, LinuxDeviceCgroup, Mount, Process, Spec

HOOK_KINDS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")


class UpdateError(BadRequest):
    """The device updates and the container's specification do not fit together; nothing was changed."""


class GuestNode(NamedTuple):
    """What a device is in the guest. `kind` is b or c."""

    kind: str
    major: int
    minor: int


class AddedNode(NamedTuple):
    """A device node that the container gets though its specification does not name it.

    `replace`: instead of one that the specification has at this path; else that one stays. `access` is that of the
    rule which allows the device (r, w, m); None for mode, user and group leaves them to crun.
    """

    path: str
    node: GuestNode
    replace: bool = False
    access: str = "rwm"
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None


class Edits(NamedTuple):
    """Additions to a specification. `hooks` pairs the kind of a hook with the hook."""

    nodes: tuple[AddedNode, ...] = ()
    env: tuple[str, ...] = ()
    mounts: tuple[Mount, ...] = ()
    hooks: tuple[tuple[str, Hook], ...] = ()
    gids: tuple[int, ...] = ()


NO_EDITS = Edits()


def add_nodes(devices: Sequence[LinuxDevice], edits: Iterable[Edits]) -> tuple[list[LinuxDevice], list[AddedNode]]:
    """The devices with the added nodes behind them, in the order of their paths, and which were added.

    Raises UpdateError when two different devices would be at one path.
    """
    wanted: dict[str, AddedNode] = {}
    for node in (node for edit in edits for node in edit.nodes):
        if wanted.setdefault(node.path, node) != node:
            raise UpdateError(f"Two different devices would be at {node.path} in the container")
    there = {device.get("path", "") for device in devices}
    added = [node for path, node in sorted(wanted.items()) if node.replace or path not in there]
    replaced = {node.path for node in added}
    kept = [device for device in devices if device.get("path", "") not in replaced]
    return [*kept, *map(_device, added)], added


def allow_nodes(nodes: Iterable[AddedNode]) -> list[LinuxDeviceCgroup]:
    """The rules by which the container may use the added nodes."""
    return [
        {
            "allow": True,
            "type": entry.node.kind,
            "major": entry.node.major,
            "minor": entry.node.minor,
            "access": entry.access,
        }
        for entry in nodes
    ]


def apply_edits(spec: Spec, edits: Sequence[Edits]) -> Spec:
    """The spec with everything but the nodes (`add_nodes`); `spec` itself stays as it was."""
    result: Spec = {**spec}
    mounts = [mount for edit in edits for mount in edit.mounts]
    if mounts:
        result["mounts"] = _with_mounts(spec.get("mounts", []), mounts)
    hooks = [hook for edit in edits for hook in edit.hooks]
    if hooks:
        result["hooks"] = _with_hooks(spec.get("hooks", {}), hooks)
    process = spec.get("process")
    if process is not None:
        result["process"] = _with_process(process, edits)
    return result


def _device(entry: AddedNode) -> LinuxDevice:
    device: LinuxDevice = {
        "path": entry.path,
        "type": entry.node.kind,
        "major": entry.node.major,
        "minor": entry.node.minor,
    }
    if entry.mode is not None:
        device["fileMode"] = entry.mode
    if entry.uid is not None:
        device["uid"] = entry.uid
    if entry.gid is not None:
        device["gid"] = entry.gid
    return device


def _with_mounts(mounts: Sequence[Mount], added: Sequence[Mount]) -> list[Mount]:
    """An added mount takes the place of one with its destination; parents are mounted before what is below them."""
    targets = {mount["destination"] for mount in added}
    kept = [mount for mount in mounts if mount.get("destination") not in targets]
    return [*kept, *sorted(added, key=lambda mount: (mount["destination"].count("/"), mount["destination"]))]


def _with_hooks(hooks: Hooks, added: Sequence[tuple[str, Hook]]) -> Hooks:
    """Each added hook behind the container's own of its kind."""
    merged: dict[str, list[Hook]] = {}
    for kind, hook in added:
        merged.setdefault(kind, list(hooks.get(kind, []))).append(hook)  # type: ignore[call-overload]  # a key of Hooks
    return {**hooks, **merged}  # type: ignore[typeddict-item]  # as above


def _with_process(process: Process, edits: Sequence[Edits]) -> Process:
    result: Process = {**process}
    added = {entry.partition("=")[0]: entry for edit in edits for entry in edit.env}
    if added:
        kept = [entry for entry in process.get("env", []) if entry.partition("=")[0] not in added]
        result["env"] = [*kept, *added.values()]
    gids = [gid for edit in edits for gid in edit.gids]
    if gids:
        user = process.get("user", {})
        result["user"] = {**user, "additionalGids": list(dict.fromkeys([*user.get("additionalGids", []), *gids]))}
    return result

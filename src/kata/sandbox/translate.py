"""A container's specification as the guest's agent gets it: one pure function over the host's, with the updates.

Called by `sandbox` once everything about the container is known. What is left out or changed, and why, is said at
each line; rules are upstream's (protocol facts, section 8) but where its faults were (upstream faults: device rules
are sent, an exec keeps its process's own settings). Never look at the host here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

from kata.oci.annotations import HOSTS_OWN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kata.oci.spec import Hooks, Linux, LinuxDevice, LinuxNamespace, LinuxResources, Mount, Spec
    from kata.sandbox.updates import MountUpdate

GUESTS_OWN = ("network", "time", "pid")
"""The VM is the pod's network, the guest's clock is the container's, and which processes it sees the agent knows."""

BLOCK_DEVICE_LIMITS = ("blockIO", "network")
"""These name devices and traffic classes of the host, and there they are enforced."""


class Translation(NamedTuple):
    """What decides the guest's form of a specification. `rootfs` is a path of the guest."""

    rootfs: str
    mounts: Sequence[MountUpdate] = ()
    added_mounts: Sequence[Mount] = ()
    added_devices: Sequence[LinuxDevice] = ()
    annotations: dict[str, str] = {}


def for_guest(spec: Spec, how: Translation) -> Spec:
    """The specification with guest paths, without what only a host has. `spec` stays as it was."""
    result: Spec = {**spec}
    result["root"] = {**spec.get("root", {}), "path": how.rootfs}
    result["mounts"] = _apply(spec.get("mounts", []), how.mounts) + list(how.added_mounts)
    result["linux"] = _linux(spec.get("linux", {}), how.added_devices)
    given = {key: value for key, value in spec.get("annotations", {}).items() if key not in HOSTS_OWN}
    if given or how.annotations or "annotations" in spec:
        result["annotations"] = {**given, **how.annotations}
    hooks = _hooks(spec.get("hooks", {}))
    if hooks:
        result["hooks"] = hooks
    else:
        result.pop("hooks", None)
    return result


def wants_sandbox_pids(spec: Spec) -> bool:
    """Whether the container joins the pid namespace of its pod: its own has a path then."""
    namespaces = spec.get("linux", {}).get("namespaces", [])
    return any(entry.get("type") == "pid" and entry.get("path") for entry in namespaces)


def resources_for_guest(resources: LinuxResources) -> LinuxResources:
    """Limits that the guest can hold: CPU numbers and NUMA nodes are the host's, as are its block devices."""
    result = {key: value for key, value in resources.items() if key not in BLOCK_DEVICE_LIMITS}
    cpu = result.get("cpu")
    if isinstance(cpu, dict):
        result["cpu"] = {key: value for key, value in cpu.items() if key not in ("cpus", "mems")}
    return cast("LinuxResources", result)


def _linux(linux: Linux, added: Sequence[LinuxDevice]) -> Linux:
    result: Linux = {**linux}
    if added:
        result["devices"] = [*linux.get("devices", []), *added]
    result["namespaces"] = _namespaces(linux.get("namespaces", []))
    if "resources" in linux:
        result["resources"] = resources_for_guest(linux["resources"])
    result.pop("mountLabel", None)  # a label of the host's policy
    return result


def _namespaces(asked: Sequence[LinuxNamespace]) -> list[LinuxNamespace]:
    """Paths are the host's. A cgroup namespace is always there: engines of cgroup v1 hosts do not ask for one, and
    without it a container would see the guest's whole hierarchy."""
    kinds = [entry["type"] for entry in asked if entry["type"] not in GUESTS_OWN]
    return [{"type": kind} for kind in dict.fromkeys((*kinds, "cgroup"))]


def _hooks(hooks: Hooks) -> Hooks:
    """Those that run inside the container; all others are programs of the host and run there."""
    return {"startContainer": hooks["startContainer"]} if hooks.get("startContainer") else {}


def _apply(mounts: Sequence[Mount], updates: Sequence[MountUpdate]) -> list[Mount]:
    changed = {update.position: update.mount for update in updates}
    placed = [changed.get(position, mount) for position, mount in enumerate(mounts)]
    return [mount for mount in placed if mount is not None]

"""From the host's OCI spec to the one that crun gets in the guest: pure functions, all in one place.

Called by `container` after devices and storages are there. Nothing here touches the system: what has to be
known about it comes in as an `Adaptation`. Never change a spec in place; a failure half way must leave the
old one.
"""

from __future__ import annotations

import posixpath
from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kata.oci.spec import Hook, Hooks, Linux, LinuxDeviceCgroup, LinuxNamespace, LinuxResources, Process, Spec

CRUNS_OWN = ("run.oci.", "module.wasm.")
"""Annotations that are orders to crun: which program runs the container, what replaces its seccomp filter, where crun
writes (crun(1)). A specification's are meant for an engine on the host, and its author may be a tenant."""
HOOK_KINDS = ("prestart", "poststart", "poststop")
"""The folders that a guest hook directory may have."""


class Adaptation(NamedTuple):
    """What the guest's side adds to a spec."""

    container_id: str
    rootfs: str
    """Where the root file system is mounted for the container."""
    namespaces: Mapping[str, str] = {}
    """Namespaces of the sandbox to join: OCI type ("ipc", "uts", "pid") to path. Others are made anew."""
    guest_hooks: Mapping[str, Sequence[str]] = {}
    """Programs found in the guest hook directory, by kind."""
    device_rules: bool = True
    """Whether the cgroup can enforce device rules (eBPF; needs CAP_SYS_RESOURCE)."""
    lsms: tuple[str, ...] = ()
    """Which of "apparmor" and "selinux" the guest's kernel has."""
    root_disk: tuple[int, int] | None = None
    """Numbers of the disk that the guest itself runs from."""


def adapt_spec(spec: Spec, adaptation: Adaptation) -> Spec:
    """The spec for crun. `spec` stays as it was."""
    adapted: Spec = {**spec, "root": {**spec.get("root", {}), "path": adaptation.rootfs}}
    adapted["linux"] = adapt_linux(spec.get("linux", {}), adaptation)
    if "annotations" in spec:
        kept = {key: value for key, value in spec["annotations"].items() if not key.startswith(CRUNS_OWN)}
        adapted["annotations"] = kept
    if "process" in spec:
        adapted["process"] = adapt_process(spec["process"], adaptation.lsms)
    hooks = merge_hooks(spec.get("hooks", {}), adaptation.guest_hooks)
    if hooks:
        adapted["hooks"] = hooks
    return adapted


def adapt_linux(linux: Linux, adaptation: Adaptation) -> Linux:
    """Namespaces, cgroup path, device rules; and nothing that this guest's kernel could only refuse."""
    adapted: Linux = {**linux}
    adapted["namespaces"] = choose_namespaces(linux.get("namespaces", []), adaptation.namespaces)
    adapted["cgroupsPath"] = cgroup_path(linux.get("cgroupsPath", ""), adaptation.container_id)
    resources = dict(linux.get("resources", {}))
    rules = device_rules(linux.get("resources", {}).get("devices", []), adaptation.root_disk)
    resources["devices"] = rules if adaptation.device_rules else []
    adapted["resources"] = resources  # type: ignore[typeddict-item]  # a copy with one key replaced
    adapted.pop("intelRdt", None)  # caches are shared out on the host
    if "selinux" not in adaptation.lsms:
        adapted.pop("mountLabel", None)
    return adapted


def choose_namespaces(asked: Sequence[LinuxNamespace], shared: Mapping[str, str]) -> list[LinuxNamespace]:
    """The container's namespaces.

    ipc and uts are the sandbox's (when it has them), pid is the sandbox's or a new one, network is the
    guest's own: the VM is the pod. Paths of the host mean nothing here, so all others are made anew. Time
    offsets are dropped as upstream does. A container with users of its own may neither name the host nor mount
    message queues in namespaces that belong to the guest's users (user_namespaces(7)), so it has its own of these.
    """
    own = {"ipc", "uts"} if any(entry["type"] == "user" for entry in asked) else set()
    chosen: list[LinuxNamespace] = []
    for kind in ("ipc", "uts", "pid"):
        joined = kind in shared and kind not in own
        chosen.append({"type": kind, "path": shared[kind]} if joined else {"type": kind})
    kept = {entry["type"] for entry in asked} & {"mount", "user", "cgroup"}
    return chosen + [{"type": kind} for kind in sorted(kept | {"mount"})]


def cgroup_path(path: str, container_id: str) -> str:
    """An absolute cgroup path.

    systemd's `slice:prefix:name` becomes `/slice/prefix/name`; no ".." survives.
    """
    clean = posixpath.normpath("/" + path.replace(":", "/"))
    return "/" + clean.lstrip("/") if clean.strip("/") else f"/kata/{container_id}"


def device_rules(
    rules: Sequence[LinuxDeviceCgroup], root_disk: tuple[int, int] | None = None
) -> list[LinuxDeviceCgroup]:
    """The container's device rules behind the default ones: nothing, then what every container needs.

    A spec that begins with a rule for all devices (a privileged container, or its own deny) knows what it
    wants. Without these defaults a container could make a node of the guest's root disk (CVE-2020-2023), and that
    disk is nobody's, whatever a spec allows: the last rule that matches counts.
    """
    denied: list[LinuxDeviceCgroup] = []
    if root_disk is not None:
        denied.append({"allow": False, "type": "b", "major": root_disk[0], "minor": root_disk[1], "access": "rwm"})
    if rules and rules[0].get("type", "a") in ("a", "") and "major" not in rules[0]:
        return [*rules, *denied]
    return [*DEFAULT_RULES, *rules, *denied]


def limited_by(resources: LinuxResources) -> list[str]:
    """The controllers of cgroup v1 that the limits on memory and CPUs need; those of a kernel may lack them."""
    cpu = resources.get("cpu", {})
    found = ["memory"] if any(resources.get("memory", {}).values()) else []
    return [*found, *(["cpuset"] if cpu.get("cpus") or cpu.get("mems") else [])]


def _rule(kind: str, major: int | None, minor: int | None, access: str) -> LinuxDeviceCgroup:
    rule: LinuxDeviceCgroup = {"allow": True, "type": kind, "access": access}
    if major is not None:
        rule["major"] = major
    if minor is not None:
        rule["minor"] = minor
    return rule


DEFAULT_RULES: tuple[LinuxDeviceCgroup, ...] = (
    {"allow": False, "access": "rwm"},
    _rule("c", None, None, "m"),
    _rule("b", None, None, "m"),
    _rule("c", 1, 3, "rwm"),  # null
    _rule("c", 1, 5, "rwm"),  # zero
    _rule("c", 1, 7, "rwm"),  # full
    _rule("c", 1, 8, "rwm"),  # random
    _rule("c", 1, 9, "rwm"),  # urandom
    _rule("c", 5, 0, "rwm"),  # tty
    _rule("c", 5, 1, "rwm"),  # console
    _rule("c", 5, 2, "rwm"),  # ptmx
    _rule("c", 136, None, "rwm"),  # pts
    _rule("c", 10, 200, "rwm"),  # tun
)


def merge_hooks(hooks: Hooks, guest: Mapping[str, Sequence[str]]) -> Hooks:
    """The spec's hooks, and behind them those of the guest hook directory, each kind with its own."""
    merged: Hooks = {**hooks}
    for kind in HOOK_KINDS:
        found: list[Hook] = [{"path": path, "args": [path, kind]} for path in guest.get(kind, ())]
        if found:
            before: list[Hook] = hooks.get(kind, [])  # type: ignore[assignment]  # kind is in HOOK_KINDS
            merged[kind] = [*before, *found]  # type: ignore[literal-required]
    return merged


def adapt_process(process: Process, lsms: Sequence[str]) -> Process:
    """A process without the labels of security modules that this kernel does not have; cwd defaults to /."""
    adapted: Process = {**process}
    adapted["cwd"] = process.get("cwd") or "/"
    if "apparmor" not in lsms:
        adapted.pop("apparmorProfile", None)
    if "selinux" not in lsms:
        adapted.pop("selinuxLabel", None)
    return adapted


def adapt_exec(process: Process, container: Process, lsms: Sequence[str]) -> Process:
    """An exec's process: its own capabilities, rlimits and the rest where given, else the container's.

    noNewPrivileges is a promise of the whole container: once on, no exec can turn it off.
    """
    adapted = adapt_process(process, lsms)
    if "capabilities" not in process and "capabilities" in container:
        adapted["capabilities"] = container["capabilities"]
    if not process.get("rlimits") and "rlimits" in container:
        adapted["rlimits"] = container["rlimits"]
    if not process.get("oomScoreAdj") and "oomScoreAdj" in container:
        adapted["oomScoreAdj"] = container["oomScoreAdj"]
    if container.get("noNewPrivileges"):
        adapted["noNewPrivileges"] = True
    return adapted

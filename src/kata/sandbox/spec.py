"""The OCI spec of a container that was asked for on a command line: pure, from image configuration and options.

The values are those that Docker and containerd give an unprivileged container (the OCI runtime-spec says what
each field means). Front ends that bring their own spec, as containerd does, do not come here.
"""

from __future__ import annotations

import os
from typing import cast

import msgspec

from kata.oci.spec import Linux, LinuxResources, Mount, Process, Spec
from kata.sandbox.seccomp import default_profile

DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

DEFAULT_CAPABILITIES = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
]
"""What Docker leaves to a container's root."""

MASKED_PATHS = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/firmware",
]
READONLY_PATHS = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]

# (type, major, minor): Documentation/admin-guide/devices.txt of the kernel; None is any.
ALLOWED_DEVICES: tuple[tuple[str, int | None, int | None, str], ...] = (
    ("c", None, None, "m"),
    ("b", None, None, "m"),
    ("c", 1, 3, "rwm"),  # null
    ("c", 1, 5, "rwm"),  # zero
    ("c", 1, 7, "rwm"),  # full
    ("c", 1, 8, "rwm"),  # random
    ("c", 1, 9, "rwm"),  # urandom
    ("c", 5, 0, "rwm"),  # tty
    ("c", 5, 1, "rwm"),  # console
    ("c", 5, 2, "rwm"),  # ptmx
    ("c", 136, None, "rwm"),  # pts
)


class User(msgspec.Struct, frozen=True):
    """Who a process runs as, in numbers; `home` becomes HOME when nothing else sets it."""

    uid: int = 0
    gid: int = 0
    additional_gids: tuple[int, ...] = ()
    home: str = "/"


class ProcessOptions(msgspec.Struct, frozen=True, kw_only=True):
    """One process in a container: its command line, environment (`K=V`), folder, user and terminal."""

    args: tuple[str, ...]
    env: tuple[str, ...] = ()
    cwd: str = "/"
    user: User = User()
    terminal: bool = False


class ImageVolume(msgspec.Struct, frozen=True):
    """A folder that is writable whatever the root filesystem is, and starts with what the image has there."""

    destination: str
    uid: int
    gid: int
    mode: int


class ContainerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """One container beside its process. `mounts` are (source, destination, read-only)."""

    id: str
    process: ProcessOptions
    hostname: str
    readonly: bool = False
    mounts: tuple[tuple[str, str, bool], ...] = ()
    volumes: tuple[ImageVolume, ...] = ()
    cpu_quota: float | None = None
    memory_bytes: int | None = None
    annotations: dict[str, str] = {}


def process(options: ProcessOptions) -> Process:
    """The `process` object: what the image or the caller asked for, with PATH, HOME and TERM where unset."""
    env = merge_env((DEFAULT_PATH, f"HOME={options.user.home}"), options.env)
    if options.terminal:
        env = merge_env(("TERM=xterm",), env)
    capabilities = DEFAULT_CAPABILITIES if options.user.uid == 0 else []
    return {
        "terminal": options.terminal,
        "user": {
            "uid": options.user.uid,
            "gid": options.user.gid,
            "additionalGids": list(options.user.additional_gids),
        },
        "args": list(options.args),
        "env": list(env),
        "cwd": options.cwd,
        "capabilities": {
            "bounding": list(DEFAULT_CAPABILITIES),
            "effective": list(capabilities),
            "permitted": list(capabilities),
        },
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1048576, "soft": 1048576}],
        "noNewPrivileges": False,
    }


def container(options: ContainerOptions) -> Spec:
    """The whole spec of one container. `root.path` is left to the sandbox, which knows where the rootfs goes."""
    return {
        "ociVersion": "1.0.2",
        "process": process(options.process),
        "root": {"path": "", "readonly": options.readonly},
        "hostname": options.hostname,
        "mounts": [*_base_mounts(), *_asked_mounts(options)],
        "annotations": dict(options.annotations),
        "linux": _linux(options),
    }


def merge_env(base: tuple[str, ...], over: tuple[str, ...]) -> tuple[str, ...]:
    """`base` with the variables of `over` put over it; order is kept, the last one of a name wins."""
    merged: dict[str, str] = {}
    for entry in (*base, *over):
        merged[entry.partition("=")[0]] = entry
    return tuple(merged.values())


def _linux(options: ContainerOptions) -> Linux:
    namespaces = ["pid", "ipc", "uts", "mount", "cgroup"]
    return {
        "namespaces": [{"type": name} for name in namespaces],
        "resources": _resources(options),
        "cgroupsPath": f"/kata/{options.id}",
        "maskedPaths": list(MASKED_PATHS),
        "readonlyPaths": list(READONLY_PATHS),
        "seccomp": default_profile(os.uname().machine),
    }


def _resources(options: ContainerOptions) -> LinuxResources:
    rules: list[dict[str, object]] = [{"allow": False, "access": "rwm"}]
    for kind, major, minor, access in ALLOWED_DEVICES:
        rule: dict[str, object] = {"allow": True, "type": kind, "access": access}
        if major is not None:
            rule["major"] = major
        if minor is not None:
            rule["minor"] = minor
        rules.append(rule)
    resources: dict[str, object] = {"devices": rules}
    if options.memory_bytes is not None:
        resources["memory"] = {"limit": options.memory_bytes}
    if options.cpu_quota is not None:
        resources["cpu"] = {"quota": int(options.cpu_quota * 100_000), "period": 100_000}
    return cast(LinuxResources, resources)


def _base_mounts() -> list[Mount]:
    return [
        _mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
        _mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _mount(
            "/dev/pts",
            "devpts",
            "devpts",
            "nosuid",
            "noexec",
            "newinstance",
            "ptmxmode=0666",
            "mode=0620",
            "gid=5",
        ),
        _mount("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),  # noqa: S108
        _mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
        _mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", "ro"),
        _mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime", "ro"),
    ]


def _asked_mounts(options: ContainerOptions) -> list[Mount]:
    mounts = [_volume(volume) for volume in options.volumes]
    for source, destination, readonly in options.mounts:
        mounts.append(_mount(destination, "bind", source, "rbind", "ro" if readonly else "rw"))
    # As Docker does: what lies deeper comes later, so that no mount hides another.
    return sorted(mounts, key=lambda mount: mount["destination"].rstrip("/").count("/"))


def _volume(volume: ImageVolume) -> Mount:
    """A tmpfs with the folder's content copied into it (runtime-spec config.md, tmpcopyup)."""
    owner = (f"mode={volume.mode:o}", f"uid={volume.uid}", f"gid={volume.gid}")
    return _mount(volume.destination, "tmpfs", "tmpfs", "tmpcopyup", *owner)


def _mount(destination: str, kind: str, source: str, *options: str) -> Mount:
    return {"destination": destination, "type": kind, "source": source, "options": list(options)}

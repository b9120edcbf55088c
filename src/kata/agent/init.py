"""What the first process of a system has to do before it can serve: base mounts, links, loopback, hostname.

Called by `__main__` when the agent is PID 1 of the guest, once. Everything is idempotent, since the kernel or
an initramfs may have done some of it. Nothing that a test or a service on a host needs belongs here.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
from typing import NamedTuple

from kata.linux import cgroup, syscalls
from kata.linux.fds import read_text

SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
IFF_UP = 0x1

_COMMON = syscalls.MS_NOSUID | syscalls.MS_NODEV
_STRICT = _COMMON | syscalls.MS_NOEXEC


class BaseMount(NamedTuple):
    """One mount(2) of the boot."""

    source: str
    target: str
    fstype: str
    flags: int
    data: str = ""


BASE_MOUNTS = (
    BaseMount("proc", "/proc", "proc", _STRICT),
    BaseMount("sysfs", "/sys", "sysfs", _STRICT),
    BaseMount("devtmpfs", "/dev", "devtmpfs", syscalls.MS_NOSUID, "mode=0755"),
    BaseMount("devpts", "/dev/pts", "devpts", syscalls.MS_NOSUID | syscalls.MS_NOEXEC, "mode=0620,gid=5,ptmxmode=0666"),
    BaseMount("shm", "/dev/shm", "tmpfs", _STRICT, "mode=1777"),  # noqa: S108 - a mount point, no file of ours
    BaseMount("tmpfs", "/run", "tmpfs", _COMMON, "mode=0755"),
    BaseMount("tmpfs", "/tmp", "tmpfs", _COMMON, "mode=1777"),  # noqa: S108 - likewise
)
CGROUP2 = BaseMount("cgroup2", cgroup.ROOT, "cgroup2", _STRICT)
CGROUP1 = BaseMount("cgroup", cgroup.ROOT, "tmpfs", _STRICT, "mode=0755")

LINKS = (
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
)


OPEN_FILES = 1 << 20
"""What upstream's agent has as a service: 80 processes of containers take the kernel's default of 1024. Containers
whose specification says nothing have it too."""
LARGE = 256 << 10
"""Bytes from which memory goes back to the kernel as soon as it is free, and not into what threads keep."""


def set_up() -> None:
    """Make the system usable. Raises OSError for what it cannot do without."""
    os.umask(0o022)
    spare_memory()
    with contextlib.suppress(PermissionError):  # without CAP_SYS_RESOURCE, which a guest's first process has
        syscalls.setrlimit(syscalls.RLIMIT_NOFILE, OPEN_FILES)
    for entry in BASE_MOUNTS:
        mount_base(entry)
    keep_standard_fds()
    for target, link in LINKS:
        if not os.path.lexists(link):
            os.symlink(target, link)
    loopback_up()
    syscalls.sethostname("localhost")
    catch_ctrl_alt_del()
    os.environ["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def mount_cgroups(*, unified: bool) -> None:
    """Cgroup v2, or v1 when not `unified`: crun takes either, but not both at once. Raises OSError."""
    if unified:
        mount_base(CGROUP2)
        cgroup.enable_controllers(cgroup.ROOT)
        return
    from kata.linux import cgroup1

    mount_base(CGROUP1)
    for controllers in cgroup1.hierarchies(read_text("/proc/cgroups")):
        mount_hierarchy(controllers)


def mount_hierarchy(controllers: tuple[str, ...]) -> None:
    """Mount one hierarchy of v1, and a link for each of its controllers. One that this kernel has not is left out."""
    folder = f"{cgroup.ROOT}/{','.join(controllers)}"
    try:
        mount_base(BaseMount("cgroup", folder, "cgroup", _STRICT, ",".join(controllers)))
    except OSError:
        os.rmdir(folder)  # e.g. memory without CONFIG_MEMCG_V1: listed by the kernel, but for v2 only
        return
    for name in controllers if len(controllers) > 1 else ():
        os.symlink(",".join(controllers), f"{cgroup.ROOT}/{name}")


def spare_memory() -> None:
    """Have many threads at once, a flood of requests, cost little, and nothing afterwards.

    The C library gives each thread a heap of its own, and has what was large once in there from then on.
    """
    syscalls.mallopt(syscalls.M_MMAP_THRESHOLD, LARGE)
    syscalls.mallopt(syscalls.M_ARENA_MAX, 2)


def catch_ctrl_alt_del() -> None:
    """Have Ctrl-Alt-Del (and the VMM's reset button) send us SIGINT: a clean power-off instead of a reset."""
    try:
        syscalls.reboot(syscalls.RB_DISABLE_CAD)
    except OSError as error:
        if error.errno != errno.EINVAL:  # first process of a pid namespace, not of a machine
            raise


def mount_base(entry: BaseMount) -> None:
    """Mount one file system unless something is mounted there. Raises OSError."""
    if not os.path.isdir(entry.target):
        os.makedirs(entry.target, exist_ok=True)
    if is_mount_point(entry.target):
        return
    try:
        syscalls.mount(entry.source, entry.target, entry.fstype, entry.flags, entry.data)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise


def is_mount_point(path: str) -> bool:
    """Whether another file system begins at `path`; works before /proc is there."""
    return os.lstat(path).st_dev != os.lstat(os.path.dirname(path)).st_dev


def keep_standard_fds() -> None:
    """Occupy descriptors 0 to 2: without a console we start with none, and others would land there."""
    while True:
        fd = os.open("/dev/null", os.O_RDWR)
        if fd > 2:
            os.close(fd)
            return
        os.set_inheritable(fd, True)


def loopback_up() -> None:
    """Bring the interface lo up. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sH14x", b"lo", 0)
        answer = fcntl.ioctl(control, SIOCGIFFLAGS, request)
        flags = struct.unpack_from("H", answer, 16)[0]
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | IFF_UP))

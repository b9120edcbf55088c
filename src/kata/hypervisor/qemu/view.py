"""What QEMU sees of the host: a mount namespace of its own with programs, a few device nodes, and its boot files.

Called by `machine` before each start. A QEMU that its guest has taken over is a user without rights, but a user can
read much on a host, connect to sockets, and see every process. Here there is no such thing: a small tmpfs in place of
the root, read-only, in which what QEMU opens by path is bound; a /proc that shows QEMU its own processes alone; and
System V IPC of its own. Everything else it has as descriptors. Never add what a guest's user could write to.
"""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kata.hypervisor.errors import HypervisorError
from kata.hypervisor.qemu.privileges import KVM_DEVICE
from kata.linux import syscalls
from kata.linux.apart import apart

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kata.hypervisor.machine import MachineSpec

PROGRAMS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/alternatives", "/etc/ld.so.cache")
"""QEMU, its libraries, firmware and data, and the programs that start it."""
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
RESOLVER = "/etc/resolv.conf"
"""For the user-mode network, which passes on what guests ask of name servers."""
ROOT_FLAGS = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
PROC = "subset=pid,hidepid=invisible"
"""Linux 5.8 (proc(5)): nothing but processes, and of these one's own."""
_READ_ONLY = syscalls.MOUNT_ATTR_RDONLY | syscalls.MOUNT_ATTR_NOSUID


@contextmanager
def namespaces(spec: MachineSpec, program: str, accelerator: str) -> Iterator[dict[str, str]]:
    """Make them: for each of nsenter's names a path, which leads there within the block. It ends once QEMU runs.

    None for a caller that is not root. Raises HypervisorError.
    """
    if os.geteuid() != 0:
        yield {}
        return
    shown = tuple(places(spec, program, accelerator))
    try:
        found = apart(lambda: _make(spec.directory, shown), "view")
    except OSError as error:
        raise HypervisorError(
            f"QEMU cannot be given namespaces of its own: {error}",
            hint="the host must let root make mount namespaces",
            layer="host",
        ) from error
    try:
        yield {name: f"/proc/{os.getpid()}/fd/{fd}" for name, fd in found.items()}
    finally:
        for fd in found.values():
            os.close(fd)


def places(spec: MachineSpec, program: str, accelerator: str) -> Iterator[str]:
    """The paths that QEMU needs, parents before what is below them."""
    yield from PROGRAMS
    yield from _folders_of(program)
    yield from DEVICES
    if accelerator == "kvm":
        yield KVM_DEVICE
    if spec.network is not None:
        yield RESOLVER
    if spec.host_devices:
        yield from ("/dev/vfio", "/sys")
    hardware = spec.hardware
    yield from (path for path in (hardware.random_source, hardware.firmware, spec.kernel, spec.initrd) if path)


def _folders_of(program: str) -> Iterator[str]:
    """Where a QEMU of the operator's own is, and what a link there leads to; <prefix>/share with <prefix>/bin."""
    if "/" not in program:
        return
    for path in dict.fromkeys((program, os.path.realpath(program))):
        folder = os.path.dirname(path)
        if not path.startswith("/usr/"):
            yield os.path.dirname(folder) if os.path.basename(folder) == "bin" else folder


def _make(staging: str, shown: tuple[str, ...]) -> dict[str, int]:
    """In a thread of its own, which ends in the new namespaces. `staging`: any folder, to build on."""
    syscalls.unshare(syscalls.CLONE_NEWNS | syscalls.CLONE_NEWIPC)
    os.umask(0o022)  # this thread's, since the first of the two parts it from the others (unshare(2))
    syscalls.mount("none", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
    syscalls.mount("kata-view", staging, "tmpfs", ROOT_FLAGS, "mode=0755,size=64k,nr_inodes=256")
    found = {}
    try:
        for name, kind in (("mount", "mnt"), ("ipc", "ipc")):
            found[name] = os.open(f"/proc/thread-self/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
        for path in shown:
            _show(path, staging)
        os.mkdir(f"{staging}/proc", 0o755)
        _mount_proc(f"{staging}/proc")
        syscalls.mount("none", staging, "", ROOT_FLAGS | syscalls.MS_BIND | syscalls.MS_REMOUNT | syscalls.MS_RDONLY)
        os.chdir(staging)
        syscalls.pivot_root(".", ".")  # the old root comes to lie over the new one (pivot_root(2)), and is let go
        syscalls.umount2(".", syscalls.MNT_DETACH)
    except BaseException:
        for fd in found.values():
            os.close(fd)
        raise
    return found


def _show(path: str, root: str) -> None:
    """Bind one path of the host, or make the same link. What the host does not have, QEMU does without."""
    target = root + path
    if os.path.lexists(target) or _is_covered(path, root):
        return
    if os.path.dirname(path) == "/" and os.path.islink(path):
        os.symlink(os.readlink(path), target)  # /bin, where it is a part of /usr
        return
    try:
        source = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        mode = os.fstat(source).st_mode
        flags = _READ_ONLY if path.startswith("/dev/") else _READ_ONLY | syscalls.MOUNT_ATTR_NODEV
        os.makedirs(target if stat.S_ISDIR(mode) else os.path.dirname(target), 0o755, exist_ok=True)
        if not stat.S_ISDIR(mode):
            os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
        clone = syscalls.open_tree(source)
        try:
            syscalls.mount_setattr(clone, flags, propagation=syscalls.MS_PRIVATE)
            syscalls.move_mount(clone, target)
        finally:
            os.close(clone)
    finally:
        os.close(source)


def _is_covered(path: str, root: str) -> bool:
    """Whether it is below something that is shown already, where nothing can be made."""
    return any(os.path.ismount(root + parent) for parent in _parents(path))


def _parents(path: str) -> Iterator[str]:
    parent = os.path.dirname(path)
    while parent != "/":
        yield parent
        parent = os.path.dirname(parent)


def _mount_proc(target: str) -> None:
    flags = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
    try:
        syscalls.mount("proc", target, "proc", flags, PROC)
    except OSError:
        # An older kernel, or one that lets a container mount no other /proc than it has.
        syscalls.mount("/proc", target, "", syscalls.MS_BIND | syscalls.MS_REC)

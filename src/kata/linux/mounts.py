"""Mount points: the table of them, binding, and taking a subtree of them down.

Called by the agent (bundles, namespaces, sandbox files) and by the host (shares, root file systems). Builds on
`syscalls`; never decide here what to mount.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import NamedTuple

from kata.linux import syscalls
from kata.linux.fds import read_text


class MountPoint(NamedTuple):
    """One line of mountinfo (proc(5)): where, which file system type, and its device number."""

    target: str
    fstype: str
    device: str


def parse_mountinfo(text: str) -> list[MountPoint]:
    """The mount points of a mountinfo file, in the order in which they were made."""
    points = []
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split(" ")
        points.append(MountPoint(_unescape(fields[4]), right.split(" ")[0], fields[2]))
    return points


def _unescape(text: str) -> str:
    """Undo proc(5)'s octal escapes of space, tab, newline and backslash."""
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, char)
    return text


def mount_points() -> list[MountPoint]:
    """The mount points that this process sees. Raises OSError without /proc."""
    return parse_mountinfo(read_text("/proc/self/mountinfo"))


def is_mounted(target: str) -> bool:
    """Whether something is mounted exactly at `target` (an absolute path without links)."""
    return any(point.target == target for point in mount_points())


def bind(source: str, target: str, *, recursive: bool = False) -> None:
    """Bind-mount `source` on `target`, which must exist. Raises OSError."""
    flags = syscalls.MS_BIND | (syscalls.MS_REC if recursive else 0)
    syscalls.mount(source, target, "", flags)


def own_namespace() -> None:
    """Put this process into a mount namespace of its own: the host's mounts come in, none of ours gets out.

    Call before any thread is started. Raises OSError.
    """
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("none", "/", "", syscalls.MS_REC | syscalls.MS_SLAVE)


def detached_mount(fstype: str) -> int:
    """A new file system that is mounted nowhere: a descriptor of its root, which goes with its last user.

    Raises OSError. The caller owns the descriptor.
    """
    context = syscalls.fsopen(fstype)
    try:
        syscalls.fsconfig_create(context)
        return syscalls.fsmount(context)
    finally:
        os.close(context)


def mount_of(fd: int) -> tuple[MountPoint, str]:
    """The mount that an open descriptor is on, and that mount's source (proc(5): fdinfo's mnt_id). Raises OSError."""
    fields = dict(line.split(":", 1) for line in read_text(f"/proc/self/fdinfo/{fd}").splitlines() if ":" in line)
    number = fields["mnt_id"].strip()
    for line in read_text("/proc/self/mountinfo").splitlines():
        if line.split(" ", 1)[0] == number:
            return parse_mountinfo(line)[0], _unescape(line.partition(" - ")[2].split(" ")[1])
    raise OSError(errno.ENOENT, "the mount of an open file is not in this mount namespace")


def unmount(target: str) -> None:
    """Unmount, lazily when it is busy; nothing happens where nothing is mounted. Never follows a link."""
    try:
        syscalls.umount2(target, syscalls.UMOUNT_NOFOLLOW | syscalls.MNT_DETACH)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EINVAL):  # EINVAL: no mount point
            raise


def unmount_below(path: str) -> None:
    """Unmount everything at and below `path`, last made first."""
    inside = path.rstrip("/") + "/"
    for point in reversed(mount_points()):
        if point.target == path or point.target.startswith(inside):
            unmount(point.target)


def remove_tree(path: str) -> None:
    """Remove a directory and what is in it, staying on its file system and following no link.

    A mount inside stays untouched and makes this fail with OSError (EBUSY): what somebody else put there is
    not ours to delete. A missing path is fine.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        _empty(fd, os.fstat(fd).st_dev)
    finally:
        os.close(fd)
    os.rmdir(path)


def _empty(dirfd: int, device: int) -> None:
    for name in os.listdir(dirfd):
        info = os.stat(name, dir_fd=dirfd, follow_symlinks=False)
        if not stat.S_ISDIR(info.st_mode):
            os.unlink(name, dir_fd=dirfd)
            continue
        if info.st_dev == device:
            _empty_child(dirfd, name, device)
        os.rmdir(name, dir_fd=dirfd)


def _empty_child(dirfd: int, name: str, device: int) -> None:
    child = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dirfd)
    try:
        _empty(child, device)
    finally:
        os.close(child)

"""The child that becomes virtiofsd: makes a mount namespace, assembles the export in it, and execs the daemon.

A script, started as `python3 -IS launcher.py <order>` by `virtiofs.py`; never imported by it. Everything is
mounted in this process's own mount namespace, so when the last process in it ends, the kernel takes it all
down: there is nothing to unmount, whoever is killed. It must never mount anything before `unshare`.

The volumes arrive as O_PATH descriptors. They are cloned into detached mounts *before* the namespace is left,
because the kernel binds only what belongs to the caller's namespace (open_tree(2)), and a detached mount gets
its flags before anybody can see it (mount_setattr(2)).
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys

AT_EMPTY_PATH, AT_RECURSIVE = 0x1000, 0x8000  # linux/fcntl.h
OPEN_TREE_CLONE, OPEN_TREE_CLOEXEC = 1, os.O_CLOEXEC  # linux/mount.h
MOVE_MOUNT_F_EMPTY_PATH = 0x4  # linux/mount.h
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV = 0x1, 0x2, 0x4  # linux/mount.h
SYS_OPEN_TREE, SYS_MOVE_MOUNT, SYS_MOUNT_SETATTR = 428, 429, 442  # the same on every architecture
AT_FDCWD = -100


class MountAttr(ctypes.Structure):
    """`struct mount_attr` of linux/mount.h."""

    _fields_ = [
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    ]


def main() -> None:
    """Do the order in argv[1]; on failure write one sentence to its `status_fd` and end with code 1.

    The status descriptor is closed by a successful exec, which is how the parent learns of success.
    """
    order = json.loads(sys.argv[1])
    os.set_inheritable(order["status_fd"], False)
    sys.path.insert(0, order["packages"])
    try:
        argv = order["argv"]
        assemble(order["tree"], order["volumes"])
        os.execv(argv[0], argv)  # noqa: S606 - this is what the launcher is for
    except OSError as error:
        os.write(order["status_fd"], f"{error}".encode())
        sys.exit(1)


def assemble(tree: str, volumes: list[dict[str, object]]) -> None:
    """Make the export at `tree`, in a mount namespace of our own. OSError names the call that failed."""
    from kata.linux import syscalls  # importable only since `main` has extended sys.path

    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)  # the daemon goes with the share's owner
    clones = [(clone_volume(volume), volume) for volume in volumes]
    syscalls.unshare(syscalls.CLONE_NEWNS)
    # Private, so that nothing of ours reaches the host.
    syscalls.mount("none", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
    flags = syscalls.MS_NODEV | syscalls.MS_NOSUID | syscalls.MS_NOEXEC
    syscalls.mount("kata-share", tree, "tmpfs", flags, "mode=0755,size=1m")
    for clone, volume in clones:
        attach_volume(clone, f"{tree}/{volume['name']}", bool(volume["directory"]))
    # The guest may write into volumes, never beside them.
    syscalls.mount("kata-share", tree, "", flags | syscalls.MS_REMOUNT | syscalls.MS_RDONLY)


def clone_volume(volume: dict[str, object]) -> int:
    """A detached mount of the volume: nosuid and nodev always, read-only when asked, with all below it."""
    fd = volume["fd"]
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH | AT_RECURSIVE
    clone = system_call("open_tree", SYS_OPEN_TREE, fd, b"", flags)
    wanted = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | (MOUNT_ATTR_RDONLY if volume["readonly"] else 0)
    attributes = MountAttr(attr_set=wanted)
    where = AT_EMPTY_PATH | AT_RECURSIVE
    size = ctypes.sizeof(attributes)
    system_call("mount_setattr", SYS_MOUNT_SETATTR, clone, b"", where, ctypes.byref(attributes), size)
    os.close(int(str(fd)))  # else the daemon would inherit a way around the read-only mount
    return clone


def attach_volume(clone: int, target: str, directory: bool) -> None:
    """Put a detached mount at `target`, a directory or a file that is made for it."""
    if directory:
        os.mkdir(target, 0o755)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644))
    system_call("move_mount", SYS_MOVE_MOUNT, clone, b"", AT_FDCWD, target.encode(), MOVE_MOUNT_F_EMPTY_PATH)
    os.close(clone)


def system_call(name: str, number: int, *arguments: object) -> int:
    """syscall(2) for calls that the C library of Debian 12 has no function for."""
    libc = ctypes.CDLL(None, use_errno=True)
    words = [ctypes.c_long(part) if isinstance(part, int) else part for part in arguments]
    result = int(libc.syscall(ctypes.c_long(number), *words))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
    return result


if __name__ == "__main__":
    main()

"""System calls that Python's standard library lacks, under the kernel's own names.

Used on both sides: the guest's agent (mounts, namespaces, reboot) and the host (namespaces, mounts). Each
wrapper is a few lines: call, and raise OSError naming the call and its path. Never add policy, retries or
convenience here, nor an import beyond ctypes and os: the guest's first process pays for every one.
"""

from __future__ import annotations

import ctypes
import os

# linux/mount.h
MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_SYNCHRONOUS = 0x10
MS_REMOUNT = 0x20
MS_MANDLOCK = 0x40
MS_DIRSYNC = 0x80
MS_NOSYMFOLLOW = 0x100
MS_NOATIME = 0x400
MS_NODIRATIME = 0x800
MS_BIND = 0x1000
MS_MOVE = 0x2000
MS_REC = 0x4000
MS_SILENT = 0x8000
MS_UNBINDABLE = 0x20000
MS_PRIVATE = 0x40000
MS_SLAVE = 0x80000
MS_SHARED = 0x100000
MS_RELATIME = 0x200000
MS_I_VERSION = 0x800000
MS_STRICTATIME = 0x1000000
MS_LAZYTIME = 0x2000000

# linux/falloc.h
FALLOC_FL_KEEP_SIZE = 0x1
FALLOC_FL_PUNCH_HOLE = 0x2

MNT_FORCE = 0x1
MNT_DETACH = 0x2
MNT_EXPIRE = 0x4
UMOUNT_NOFOLLOW = 0x8

# linux/sched.h
CLONE_FS = 0x00000200
CLONE_NEWTIME = 0x00000080
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

# linux/prctl.h
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NAME = 15
PR_SET_SECCOMP = 22
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38

# linux/reboot.h
RB_AUTOBOOT = 0x01234567
RB_HALT_SYSTEM = 0xCDEF0123
RB_POWER_OFF = 0x4321FEDC
RB_ENABLE_CAD = 0x89ABCDEF
RB_DISABLE_CAD = 0

# linux/openat2.h
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10
RESOLVE_CACHED = 0x20

# linux/inotify.h
IN_MODIFY = 0x00000002
IN_ATTRIB = 0x00000004
IN_CLOSE_WRITE = 0x00000008
IN_MOVED_TO = 0x00000080
IN_CREATE = 0x00000100
IN_DELETE = 0x00000200
IN_DELETE_SELF = 0x00000400
IN_IGNORED = 0x00008000
IN_CLOEXEC = os.O_CLOEXEC
IN_NONBLOCK = os.O_NONBLOCK

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
SYS_PIVOT_ROOT = 155
SYS_FINIT_MODULE = 313
SYS_BPF = 321
SYS_OPEN_TREE = 428
SYS_MOVE_MOUNT = 429
SYS_FSOPEN = 430
SYS_FSCONFIG = 431
SYS_FSMOUNT = 432
SYS_OPENAT2 = 437
SYS_MOUNT_SETATTR = 442

# linux/mount.h, for open_tree(2) and move_mount(2)
OPEN_TREE_CLONE = 0x1
AT_RECURSIVE = 0x8000
MOVE_MOUNT_F_EMPTY_PATH = 0x4
MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4

RLIMIT_NOFILE = 7
M_MMAP_THRESHOLD = -3
M_ARENA_MAX = -8
"""mallopt(3): malloc.h of the C library."""

# linux/mount.h, for fsopen(2), fsconfig(2) and fsmount(2)
FSOPEN_CLOEXEC = 0x1
FSCONFIG_CMD_CREATE = 6
FSMOUNT_CLOEXEC = 0x1

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_ulong,
    ctypes.c_char_p,
)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)
_libc.unshare.argtypes = (ctypes.c_int,)
_libc.setns.argtypes = (ctypes.c_int, ctypes.c_int)
_libc.reboot.argtypes = (ctypes.c_int,)
_libc.prctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)
_libc.inotify_init1.argtypes = (ctypes.c_int,)
_libc.inotify_add_watch.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)
_libc.inotify_rm_watch.argtypes = (ctypes.c_int, ctypes.c_int)
_libc.settimeofday.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_libc.syscall.restype = ctypes.c_long


class _OpenHow(ctypes.Structure):
    """The kernel's struct open_how."""

    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


class _MountAttr(ctypes.Structure):
    """The kernel's struct mount_attr."""

    _fields_ = [
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    ]


class _Timeval(ctypes.Structure):
    """The kernel's struct timeval."""

    _fields_ = [("tv_sec", ctypes.c_long), ("tv_usec", ctypes.c_long)]


def _check(result: int, call: str, path: str = "") -> int:
    if result >= 0:
        return result
    number = ctypes.get_errno()
    raise OSError(number, f"{call}: {os.strerror(number)}", path or None)


def mount(source: str, target: str, fstype: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2). Empty strings are passed as NULL for `fstype` and `data`."""
    result = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        os.fsencode(fstype) if fstype else None,
        flags,
        os.fsencode(data) if data else None,
    )
    _check(result, f"mount {fstype or 'bind'}", target)


def umount2(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    _check(_libc.umount2(os.fsencode(target), flags), "umount2", target)


def swapon(path: str, flags: int = 0) -> None:
    """swapon(2)."""
    _check(_libc.swapon(os.fsencode(path), ctypes.c_int(flags)), "swapon", path)


def swapoff(path: str) -> None:
    """swapoff(2)."""
    _check(_libc.swapoff(os.fsencode(path)), "swapoff", path)


def setrlimit(resource: int, limit: int) -> None:
    """setrlimit(2): the soft and the hard limit."""
    _check(_libc.setrlimit(resource, (ctypes.c_uint64 * 2)(limit, limit)), "setrlimit")


def mallopt(parameter: int, value: int) -> None:
    """mallopt(3). A C library that does not know the parameter goes on as it was."""
    _libc.mallopt(parameter, value)


def unshare(flags: int) -> None:
    """unshare(2), for the calling thread."""
    _check(_libc.unshare(flags), "unshare")


def setns(fd: int, nstype: int = 0) -> None:
    """setns(2), for the calling thread."""
    _check(_libc.setns(fd, nstype), "setns")


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2)."""
    result = _libc.syscall(
        ctypes.c_long(SYS_PIVOT_ROOT),
        ctypes.c_char_p(os.fsencode(new_root)),
        ctypes.c_char_p(os.fsencode(put_old)),
    )
    _check(result, "pivot_root", new_root)


def reboot(command: int) -> None:
    """reboot(2): RB_POWER_OFF and RB_AUTOBOOT do not return."""
    _check(_libc.reboot(ctypes.c_int(command & 0xFFFFFFFF).value), "reboot")


def sethostname(name: str) -> None:
    """sethostname(2), in the calling thread's UTS namespace."""
    raw = os.fsencode(name)
    _check(_libc.sethostname(raw, ctypes.c_size_t(len(raw))), "sethostname")


def prctl(option: int, arg2: int = 0, arg3: int = 0, arg4: int = 0, arg5: int = 0) -> int:
    """prctl(2), for the options whose arguments are numbers."""
    return _check(_libc.prctl(option, arg2, arg3, arg4, arg5), "prctl")


def openat2(dirfd: int, path: str, flags: int, mode: int = 0, resolve: int = 0) -> int:
    """openat2(2): a new file descriptor, close-on-exec whatever `flags` says. The caller owns it."""
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    result = _libc.syscall(
        ctypes.c_long(SYS_OPENAT2),
        ctypes.c_int(dirfd),
        ctypes.c_char_p(os.fsencode(path)),
        ctypes.byref(how),
        ctypes.c_size_t(ctypes.sizeof(how)),
    )
    return _check(result, "openat2", path)


def open_tree(fd: int) -> int:
    """open_tree(2): the mounts at and below what `fd` is open on, cloned and detached. The caller owns the result."""
    flags = OPEN_TREE_CLONE | os.O_CLOEXEC | AT_EMPTY_PATH | AT_RECURSIVE
    result = _libc.syscall(ctypes.c_long(SYS_OPEN_TREE), ctypes.c_int(fd), ctypes.c_char_p(b""), ctypes.c_uint(flags))
    return _check(result, "open_tree")


def move_mount(fd: int, target: str) -> None:
    """move_mount(2): attach the detached mounts of `fd` at `target`."""
    result = _libc.syscall(
        ctypes.c_long(SYS_MOVE_MOUNT),
        ctypes.c_int(fd),
        ctypes.c_char_p(b""),
        ctypes.c_int(AT_FDCWD),
        ctypes.c_char_p(os.fsencode(target)),
        ctypes.c_uint(MOVE_MOUNT_F_EMPTY_PATH),
    )
    _check(result, "move_mount", target)


def mount_setattr(fd: int, flags: int, *, propagation: int = 0) -> None:
    """mount_setattr(2): MOUNT_ATTR_ `flags` on the detached mounts of `fd`, those below included.

    `propagation`: MS_SHARED, MS_SLAVE, MS_PRIVATE or, as before, 0.
    """
    attributes = _MountAttr(flags, 0, propagation)
    result = _libc.syscall(
        ctypes.c_long(SYS_MOUNT_SETATTR),
        ctypes.c_int(fd),
        ctypes.c_char_p(b""),
        ctypes.c_uint(AT_EMPTY_PATH | AT_RECURSIVE),
        ctypes.byref(attributes),
        ctypes.c_size_t(ctypes.sizeof(attributes)),
    )
    _check(result, "mount_setattr")


def fsopen(fstype: str) -> int:
    """fsopen(2): the beginnings of a file system of this type. The caller owns the descriptor."""
    result = _libc.syscall(
        ctypes.c_long(SYS_FSOPEN), ctypes.c_char_p(os.fsencode(fstype)), ctypes.c_uint(FSOPEN_CLOEXEC)
    )
    return _check(result, f"fsopen {fstype}")


def fsconfig_create(fd: int) -> None:
    """fsconfig(2) with FSCONFIG_CMD_CREATE: make the file system that `fd` describes."""
    arguments = (ctypes.c_int(fd), ctypes.c_uint(FSCONFIG_CMD_CREATE), None, None, ctypes.c_int(0))
    _check(_libc.syscall(ctypes.c_long(SYS_FSCONFIG), *arguments), "fsconfig")


def fsmount(fd: int) -> int:
    """fsmount(2): a detached mount of the file system of `fd`, as open_tree's. The caller owns the result."""
    result = _libc.syscall(
        ctypes.c_long(SYS_FSMOUNT), ctypes.c_int(fd), ctypes.c_uint(FSMOUNT_CLOEXEC), ctypes.c_uint(0)
    )
    return _check(result, "fsmount")


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2), with what os.posix_fallocate has no mode for."""
    _check(_libc.fallocate(fd, mode, offset, length), "fallocate")


def settimeofday(seconds: int, microseconds: int) -> None:
    """settimeofday(2): the wall clock, since the epoch."""
    value = _Timeval(seconds, microseconds)
    _check(_libc.settimeofday(ctypes.byref(value), None), "settimeofday")


def finit_module(fd: int, parameters: str = "", flags: int = 0) -> None:
    """finit_module(2): load the kernel module that `fd` is open on."""
    result = _libc.syscall(
        ctypes.c_long(SYS_FINIT_MODULE),
        ctypes.c_int(fd),
        ctypes.c_char_p(os.fsencode(parameters)),
        ctypes.c_int(flags),
    )
    _check(result, "finit_module")


def bpf(command: int, attributes: bytes) -> int:
    """bpf(2): what the command returns; `attributes` is union bpf_attr as far as the command reads it."""
    result = _libc.syscall(
        ctypes.c_long(SYS_BPF), ctypes.c_int(command), ctypes.c_char_p(attributes), ctypes.c_uint(len(attributes))
    )
    return _check(result, f"bpf({command})")


def inotify_init1(flags: int = IN_CLOEXEC) -> int:
    """inotify_init1(2): a new inotify descriptor. The caller owns it."""
    return _check(_libc.inotify_init1(flags), "inotify_init1")


def inotify_add_watch(fd: int, path: str, mask: int) -> int:
    """inotify_add_watch(2): the watch's number."""
    return _check(_libc.inotify_add_watch(fd, os.fsencode(path), mask), "inotify_add_watch", path)


def inotify_rm_watch(fd: int, watch: int) -> None:
    """inotify_rm_watch(2)."""
    _check(_libc.inotify_rm_watch(fd, watch), "inotify_rm_watch")

"""A seccomp filter that refuses some system calls (seccomp(2), x86-64), for programs that bring none of their own.

The filter stays over execve(2) and in children. A refused call fails with EPERM; a call by another machine's numbers
ends the process. Which calls are refused is the caller's to say.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterable

from kata.linux import syscalls

# linux/seccomp.h, linux/audit.h
SECCOMP_MODE_FILTER = 2
RET_KILL_PROCESS = 0x80000000
RET_ERRNO = 0x00050000
RET_ALLOW = 0x7FFF0000
AUDIT_ARCH_X86_64 = 0xC000003E
EPERM = 1
X32_BIT = 0x40000000
# struct seccomp_data: nr, arch, instruction pointer, then six arguments of 8 bytes
NR, ARCH, ARGUMENTS = 0, 4, 16
# linux/bpf_common.h
LOAD, AND, EQUAL, AT_LEAST, RETURN = 0x20, 0x54, 0x15, 0x35, 0x06

NUMBERS = {
    "add_key": 248,
    "bpf": 321,
    "connect": 42,
    "execveat": 322,
    "io_uring_setup": 425,
    "keyctl": 250,
    "kill": 62,
    "mknod": 133,
    "mknodat": 259,
    "open_by_handle_at": 304,
    "perf_event_open": 298,
    "pidfd_getfd": 438,
    "pidfd_open": 434,
    "pidfd_send_signal": 424,
    "process_vm_readv": 310,
    "process_vm_writev": 311,
    "ptrace": 101,
    "request_key": 249,
    "rt_sigqueueinfo": 129,
    "rt_tgsigqueueinfo": 297,
    "setns": 308,
    "socket": 41,
    "tgkill": 234,
    "tkill": 200,
    "unshare": 272,
    "userfaultfd": 323,
}
"""asm/unistd_64.h"""
MODES = {"mknod": 1, "mknodat": 2}
"""The argument that says what is made."""
S_IFMT, S_IFCHR, S_IFBLK = 0o170000, 0o020000, 0o060000


def program(refused: Iterable[str]) -> bytes:
    """The filter in the kernel's form. `mknod` and `mknodat` are refused for device nodes alone: FIFOs are harmless."""
    refuse = _instruction(RETURN, RET_ERRNO | EPERM)
    code = [
        _instruction(LOAD, ARCH),
        _instruction(EQUAL, AUDIT_ARCH_X86_64, 1, 0),
        _instruction(RETURN, RET_KILL_PROCESS),
        _instruction(LOAD, NR),
        _instruction(AT_LEAST, X32_BIT, 0, 1),
        refuse,
    ]
    for name in refused:
        if name in MODES:
            # Not this call: on with the next. Else look at the mode; what is left alone by it is allowed.
            code += [
                _instruction(EQUAL, NUMBERS[name], 0, 6),
                _instruction(LOAD, ARGUMENTS + 8 * MODES[name]),
                _instruction(AND, S_IFMT),
                _instruction(EQUAL, S_IFCHR, 1, 0),
                _instruction(EQUAL, S_IFBLK, 0, 1),
                refuse,
                _instruction(RETURN, RET_ALLOW),
            ]
        else:
            code += [_instruction(EQUAL, NUMBERS[name], 0, 1), refuse]
    return b"".join([*code, _instruction(RETURN, RET_ALLOW)])


def install(code: bytes) -> None:
    """Put a filter on this process, for good. Nothing that it executes gains rights from then on. Raises OSError."""
    buffer = ctypes.create_string_buffer(code, len(code))
    fprog = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer)))
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    syscalls.prctl(syscalls.PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(fprog))


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """struct sock_filter."""
    return struct.pack("HBBI", code, if_true, if_false, value)

"""The system call filter of containers that `kata run` makes: what a program without privileges has no use for.

Called by `spec`. Front ends that bring a specification bring its filter. Everything else is allowed: the guest's kernel
is one that we choose, so a call that is not listed here is one that we know of, and new programs keep their fallbacks
(they expect ENOSYS, not EPERM, of a call that is not there). Each name says what it would reach; a capability that a
container does not have stops most of these too, and this holds where one does: in a user namespace of its own making.
Sources: the manual page of each call, section 2, and seccomp(2).
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kata.oci.spec import LinuxSeccomp, LinuxSyscall

ARCHITECTURES = {
    "x86_64": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    "aarch64": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
}
"""Those of the programs that a machine runs; a program of another is killed at its first call."""

REFUSED = (
    # other kernels, and code for this one
    *("kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module", "bpf"),
    # mounts and namespaces; clone has a rule of its own
    *("mount", "umount", "umount2", "pivot_root", "setns", "unshare", "fsopen", "fsconfig", "fsmount", "fspick"),
    *("open_tree", "move_mount", "mount_setattr"),
    # clocks
    *("settimeofday", "stime", "clock_settime", "clock_settime64", "clock_adjtime", "clock_adjtime64"),
    # the machine as a whole
    *("reboot", "swapon", "swapoff", "acct", "quotactl", "quotactl_fd", "iopl", "ioperm", "syslog", "vhangup"),
    # files by handles, which know no root; and being asked before others open theirs
    *("open_by_handle_at", "fanotify_init"),
    # other processes' memory and descriptors
    *("process_vm_readv", "process_vm_writev", "process_madvise", "pidfd_getfd", "kcmp"),
    # kernel keys, which know no containers
    *("add_key", "request_key", "keyctl"),
    # large parts of the kernel that have been the way in before
    *("perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register", "lookup_dcookie"),
    # what is there for old programs
    *("uselib", "ustat", "sysfs", "_sysctl", "nfsservctl", "create_module", "query_module", "get_kernel_syms"),
    *("vm86", "vm86old"),
)

NAMESPACE_FLAGS = (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET (linux/sched.h)."""
AF_VSOCK = 40
"""By which a guest reaches its host (vsock(7))."""


def default_profile(machine: str) -> LinuxSeccomp:
    """The filter for a machine, by its name as uname(2) has it."""
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ARCHITECTURES.get(machine, []),
        "syscalls": [
            _refuse(REFUSED, errno.EPERM),
            # Its flags are in memory, which no filter sees; without it libraries use clone.
            _refuse(("clone3",), errno.ENOSYS),
            *(_refuse_argument("clone", flag, "SCMP_CMP_MASKED_EQ") for flag in NAMESPACE_FLAGS),
            _refuse_argument("socket", AF_VSOCK, "SCMP_CMP_EQ"),
        ],
    }


def _refuse(names: tuple[str, ...], number: int) -> LinuxSyscall:
    return {"names": list(names), "action": "SCMP_ACT_ERRNO", "errnoRet": number}


def _refuse_argument(name: str, value: int, comparison: str) -> LinuxSyscall:
    """By the first argument; of a masked comparison both numbers are the flag."""
    second = value if comparison == "SCMP_CMP_MASKED_EQ" else 0
    return {
        **_refuse((name,), errno.EPERM),
        "args": [{"index": 0, "value": value, "valueTwo": second, "op": comparison}],
    }

"""The child that becomes the daemon: a mount namespace of its own, in which the export is read-only, then exec.

A script, started as `python3 -IS launcher.py <order>` by `share.py`; never imported by it. What the share's owner
mounts in the tree later comes here by propagation (mount_namespaces(7)); nothing goes back. When the last process of
the namespace ends, the kernel takes it all down.
"""

from __future__ import annotations

import json
import os
import signal
import sys


def main() -> None:
    """Do the order in argv[1]; on failure write one sentence to its `status_fd` and end with code 1.

    The status descriptor is closed by a successful exec, which is how the parent learns of success.
    """
    order = json.loads(sys.argv[1])
    os.set_inheritable(order["status_fd"], False)
    sys.path.insert(0, order["packages"])
    try:
        enter(order["tree"], order["owner"])
        if order["filtered"]:
            confine()
        os.execv(order["argv"][0], order["argv"])  # noqa: S606 - this is what the launcher is for
    except OSError as error:
        os.write(order["status_fd"], f"{error}".encode())
        sys.exit(1)


def enter(tree: str, owner: int) -> None:
    """Go into a mount namespace where `tree` itself cannot be written to. OSError names the call that failed."""
    from kata.linux import syscalls  # importable only since `main` has extended sys.path

    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)  # the daemon goes with the share's owner
    if os.getppid() != owner:
        raise OSError("the process that wanted the share has ended")  # before it could have taken us along
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("none", "/", "", syscalls.MS_REC | syscalls.MS_SLAVE)
    # The guest may write into volumes, never beside them. This mount alone: the owner's stays as it is.
    flags = syscalls.MS_NODEV | syscalls.MS_NOSUID | syscalls.MS_NOEXEC
    syscalls.mount("none", tree, "", flags | syscalls.MS_BIND | syscalls.MS_REMOUNT | syscalls.MS_RDONLY)


def confine() -> None:
    """For a daemon that is root with few capabilities, and brings neither namespaces nor a filter of its own.

    Root can signal and trace root, whatever its capabilities; what it serves needs neither that nor a network. A
    device node that it made for a guest would be a real one for every process of the host.
    """
    from kata.linux import seccomp

    seccomp.install(seccomp.program(seccomp.NUMBERS))


if __name__ == "__main__":
    main()

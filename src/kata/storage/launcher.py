"""The child that becomes the daemon: a mount namespace of its own, in which the export is read-only, then exec.

A script, started by `share.py` as `python3 -IS launcher.py PACKAGES STATUS_FD OWNER FILTERED TREE DAEMON…`, and never
imported by it. What the share's owner mounts in the tree later comes here by propagation (mount_namespaces(7)); nothing
goes back. When the last process of the namespace ends, the kernel takes it all down. It is part of a start, so it
imports next to nothing: json and signal would be half of its time.
"""

from __future__ import annotations

import os
import sys

SIGKILL = 9


def main() -> None:
    """Do what the words say; on failure write one sentence to STATUS_FD and end with code 1.

    FILTERED is 1 or 0. The status descriptor is closed by a successful exec, which is how the parent learns of success.
    """
    packages, status, owner, filtered, tree, *argv = sys.argv[1:]
    os.set_inheritable(int(status), False)
    sys.path.insert(0, packages)
    try:
        enter(tree, int(owner))
        if filtered == "1":
            confine()
        os.execv(argv[0], argv)  # noqa: S606 - this is what the launcher is for
    except OSError as error:
        os.write(int(status), f"{error}".encode())
        sys.exit(1)


def enter(tree: str, owner: int) -> None:
    """Go into a mount namespace where `tree` itself cannot be written to. OSError names the call that failed."""
    from kata.linux import syscalls  # importable only since `main` has extended sys.path

    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, SIGKILL)  # the daemon goes with the share's owner
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

"""flock(2) with a deadline. Stores that several processes share lock a file of theirs with it.

A lock belongs to an open file description: a process that dies gives it back, and whoever opens the file anew
excludes others, threads of the same process too.
"""

from __future__ import annotations

import fcntl
import subprocess

from kata.linux import process


def try_lock(fd: int, operation: int = fcntl.LOCK_EX) -> bool:
    """Take the lock of `fd` if nobody is in the way."""
    try:
        fcntl.flock(fd, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock(fd: int, timeout: float, *, shared: bool = False) -> bool:
    """Take the lock of `fd`, waiting at most `timeout` seconds; whether it was had.

    flock(2) has no deadline, flock(1) does: it locks the description that we share with it, then ends.
    """
    if try_lock(fd, fcntl.LOCK_SH if shared else fcntl.LOCK_EX):
        return True
    mode = "--shared" if shared else "--exclusive"
    helper = process.spawn(["flock", mode, "--timeout", f"{timeout:.3f}", str(fd)], pass_fds=(fd,))
    try:
        return helper.wait(timeout + 5) == 0
    except subprocess.TimeoutExpired:
        return False
    finally:
        helper.kill()
        helper.wait()

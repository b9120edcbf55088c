"""flock(2) with a deadline. Used by the image store and by the records of sandboxes.

A lock belongs to an open file description: a process that dies gives it back, and each opening has its own.
"""

from __future__ import annotations

import fcntl


def try_lock(fd: int, operation: int = fcntl.LOCK_EX) -> bool:
    """Take the lock of `fd` if nobody is in the way. Raises OSError."""
    try:
        fcntl.flock(fd, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait_lock(fd: int, timeout: float, *, shared: bool = False) -> bool:
    """Take the lock of `fd` within `timeout` seconds; whether it was had. Raises OSError, ProcessError.

    flock(2) has no deadline, flock(1) does: it locks the description that we share with it, then ends.
    """
    if try_lock(fd, fcntl.LOCK_SH if shared else fcntl.LOCK_EX):
        return True
    import subprocess  # not needed unless somebody is in the way

    from kata.linux import process

    mode = "--shared" if shared else "--exclusive"
    helper = process.spawn(["flock", mode, "--timeout", str(timeout), str(fd)], pass_fds=(fd,))
    try:
        return helper.wait(timeout + 5) == 0
    except subprocess.TimeoutExpired:
        return False
    finally:
        helper.kill()
        helper.wait()

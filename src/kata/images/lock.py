"""Locks between processes (and threads) that use one store, with a deadline.

flock(2) belongs to an open file description: a process that dies gives it back, and each `locked` block opens
its own, so threads exclude each other as well. Called by the store, by `snapshots` and by `workspace`.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kata.images.errors import StoreBusyError


@contextmanager
def locked(path: Path, *, timeout: float, shared: bool = False) -> Iterator[None]:
    """Hold the lock file `path`; waits at most `timeout` seconds. Raises StoreBusyError."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        operation = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        if not try_lock(fd, operation):
            _wait(fd, path, timeout, shared=shared)
        yield
    finally:
        os.close(fd)


def try_lock(fd: int, operation: int = fcntl.LOCK_EX) -> bool:
    """Take the lock of `fd` if nobody is in the way."""
    try:
        fcntl.flock(fd, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait(fd: int, path: Path, timeout: float, *, shared: bool) -> None:
    """flock(2) has no deadline, flock(1) does: it locks the description that we share with it, then ends."""
    import subprocess  # not needed unless somebody is in the way

    from kata.linux import process

    mode = "--shared" if shared else "--exclusive"
    helper = process.spawn(["flock", mode, "--timeout", str(timeout), str(fd)], pass_fds=(fd,))
    try:
        code = helper.wait(timeout + 5)
    except subprocess.TimeoutExpired:
        code = 1
    finally:
        helper.kill()
        helper.wait()
    if code:
        raise StoreBusyError(
            f"the image store is in use: {path} stayed locked for {timeout:.0f} s",
            hint="wait for the other kata command to end; `fuser -v` on that file shows it",
        )

"""Locks between processes (and threads) that use one store, with a deadline.

Each `locked` block opens the file itself, so threads exclude each other as well. Called by the store, by `snapshots`
and by `workspace`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kata.images.errors import StoreBusyError
from kata.linux.flock import wait_lock


@contextmanager
def locked(path: Path, *, timeout: float, shared: bool = False) -> Iterator[None]:
    """Hold the lock file `path`; waits at most `timeout` seconds. Raises StoreBusyError."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not wait_lock(fd, timeout, shared=shared):
            raise StoreBusyError(
                f"the image store is in use: {path} stayed locked for {timeout:.0f} s",
                hint="wait for the other kata command to end; `fuser -v` on that file shows it",
            )
        yield
    finally:
        os.close(fd)

"""File descriptors: who owns them, and closing one while another thread waits on it.

Called by the agent's stdio and by whoever passes descriptors on. Never add protocols or buffering here.
"""

from __future__ import annotations

import fcntl
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager

F_GETPIPE_SZ = 1032
F_SETPIPE_SZ = 1031


class SharedFd:
    """Owns one descriptor that several threads poll and one may close at any time.

    Closing a number that another thread is about to poll would let it read from whatever gets that number
    next. So `close` only marks it and wakes everybody through `wake` (readable from then on); the numbers are
    given back when the last user has left its `use()` block.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        """Poll it together with the descriptor; it stays readable after `interrupt` or `close`."""
        self._lock = threading.Lock()
        self._users = 0
        self.closed = False

    @contextmanager
    def use(self) -> Iterator[int]:
        """The descriptor's number, valid within the block. Raises ValueError once it is closed."""
        with self._lock:
            if self.closed:
                raise ValueError("the stream is closed")
            self._users += 1
        try:
            yield self._fd
        finally:
            with self._lock:
                self._users -= 1
                self._release()

    def interrupt(self) -> None:
        """Wake everybody who polls `wake`. Harmless when closed already."""
        with self._lock:
            if not self.closed:
                os.eventfd_write(self.wake, 1)

    def close(self) -> None:
        """Close it, now or when the last user leaves. Harmless when closed already."""
        with self._lock:
            if self.closed:
                return
            self.closed = True
            os.eventfd_write(self.wake, 1)
            self._release()

    def _release(self) -> None:
        if self.closed and not self._users:
            os.close(self._fd)
            os.close(self.wake)


def read_text(path: str) -> str:
    """A small file's text (procfs, sysfs, cgroup files), undecodable bytes escaped. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        chunks = []
        while chunk := os.read(fd, 65536):
            chunks.append(chunk)
        return b"".join(chunks).decode("utf-8", "backslashreplace")
    finally:
        os.close(fd)


def write_text(path: str, text: str) -> None:
    """Write a control file in one write(2), as sysfs and cgroup files demand.

    Never creates. Raises OSError.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(fd)


def write_file(path: str, data: bytes, mode: int = 0o600) -> None:
    """Make or replace a regular file with `data`, never following a symbolic link. Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        write_all(fd, data)
        os.fchmod(fd, mode)
    finally:
        os.close(fd)


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data` to a blocking descriptor. Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def set_pipe_size(fd: int, size: int) -> None:
    """Ask for a pipe buffer of `size` bytes.

    Raises OSError above /proc/sys/fs/pipe-max-size without CAP_SYS_RESOURCE.
    """
    fcntl.fcntl(fd, F_SETPIPE_SZ, size)


def pipe_size(fd: int) -> int:
    """How many bytes a pipe's buffer holds."""
    return fcntl.fcntl(fd, F_GETPIPE_SZ)


def identity(info: os.stat_result) -> str:
    """What a disk is, whatever it is called: a block device by its number, a file by its inode. Empty for the rest."""
    if stat.S_ISBLK(info.st_mode):
        return f"block {os.major(info.st_rdev)}:{os.minor(info.st_rdev)}"
    return f"file {info.st_dev}:{info.st_ino}" if stat.S_ISREG(info.st_mode) else ""

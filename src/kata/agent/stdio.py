"""Standard streams of one process: what ReadStdout, WriteStdin and CloseStdin do to pipes and terminals.

Called by `process`. Reading and writing block the calling thread, with no lock of the container held, until
there is something to do, the process has ended, or the stream is closed. Never buffer here: the pipe is the
buffer.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import select
import struct
import threading
import time

from kata.agent.errors import WrongState
from kata.linux.fds import SharedFd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

DRAIN = 0.5
"""Seconds for which output is still read when something else holds the pipe open after the process's end."""
MAX_READ = 1 << 20
"""A reply must stay well below ttrpc's 4 MiB."""
SMALL = 32 << 10
"""Bytes below which output is handed over as a copy of its own."""

TCGETS = 0x5401
TIOCSWINSZ = 0x5414
ICANON = 0x2
VEOF = 4


_local = threading.local()


def _buffer() -> memoryview:
    """What the calling thread reads output into, again and again: a new buffer would have all its pages made anew,
    which costs an emulated guest as much as filling them. Pages that no output has reached are never there."""
    buffer: memoryview | None = getattr(_local, "buffer", None)
    if buffer is None:
        buffer = _local.buffer = memoryview(mmap.mmap(-1, MAX_READ))  # a bytearray is written to, all of it, to be zero
    return buffer


class OutputStream:
    """Standard output or error as the client reads it."""

    def __init__(self, shared: SharedFd) -> None:
        self._shared = shared
        self._deadline: float | None = None
        self._left = 1 << 20
        self.finished = False
        """True once the end of the stream was seen."""

    def read(self, size: int) -> bytes | memoryview:
        """Up to `size` bytes (at least one, at most `MAX_READ`), or nothing at the end. Blocks.

        More than `SMALL` bytes are good until the calling thread reads again: the answer that carries them is sent by
        the same thread (`kata.protocol.server`).
        """
        if self.finished:
            return b""
        data: bytes | memoryview
        try:
            with self._shared.use() as fd:
                data = self._read(fd, max(1, min(size, MAX_READ)))
        except ValueError:  # closed
            data = b""
        self.finished = self.finished or not data
        return data

    def process_ended(self) -> None:
        """From now on the end of the stream is at most `DRAIN` seconds away."""
        self._deadline = time.monotonic() + DRAIN
        self._shared.interrupt()

    def close(self) -> None:
        """Give the descriptor back; readers see the end."""
        self._shared.close()

    def _read(self, fd: int, size: int) -> bytes | memoryview:
        while not self._shared.closed:
            deadline = self._deadline
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if _poll(fd, select.POLLIN, self._shared.wake if left is None else -1, left):
                data = self._take(fd, size, late=left == 0.0)
                if data is not None:
                    return data
            elif left == 0.0:
                return b""
        return b""

    def _take(self, fd: int, size: int, *, late: bool) -> bytes | memoryview | None:
        """One read(2).

        When `late`, no more than a full buffer in all: what was there at the deadline, roughly.
        """
        if late:
            size = min(size, self._left)
        buffer = _buffer()
        try:
            data = buffer[: os.readv(fd, [buffer[:size]])] if size else buffer[:0]
        except BlockingIOError:  # another reader was faster
            return None
        except OSError as error:
            if error.errno != errno.EIO:  # a terminal whose other side nobody holds any more
                raise
            return b""
        if late:
            self._left -= len(data)
        return data if len(data) > SMALL else bytes(data)


class InputStream:
    """Standard input as the client writes it; `terminal` when the descriptor is a terminal's master side."""

    def __init__(self, shared: SharedFd, *, terminal: bool) -> None:
        self._shared = shared
        self._terminal = terminal
        self._order = threading.Lock()  # taken by writers alone, so that two writes do not mix
        self._in_line = False
        self._ended = False
        self._gone = False

    def write(self, data: bytes) -> int:
        """Write all of `data`, blocking while nobody reads. Raises WrongState when no reader is left."""
        if self._ended:
            raise WrongState("standard input is closed")
        with self._order:
            try:
                with self._shared.use() as fd:
                    self._write(fd, memoryview(data))
            except ValueError:
                raise WrongState("standard input is closed") from None
        self._in_line = not data.endswith(b"\n")
        return len(data)

    def end(self) -> None:
        """No more input. A pipe is closed; a terminal in line mode gets its end-of-file character, once.

        A terminal cannot be closed on one side: that would hang up the session. A program that reads keys one
        by one (no line mode) has no notion of an end of input.
        """
        if self._ended:
            return
        self._ended = True
        if not self._terminal:
            self._shared.close()
            return
        try:
            with self._shared.use() as fd:
                self._write(fd, memoryview(end_of_file(fd, in_line=self._in_line)))
        except (ValueError, WrongState):
            pass  # the session has ended already

    def process_ended(self) -> None:
        """A writer that waits for room in a terminal's buffer has nothing more to wait for."""
        if self._terminal:
            self._gone = True
            self._shared.interrupt()

    def close(self) -> None:
        """Give the descriptor back."""
        self._shared.close()

    def _write(self, fd: int, view: memoryview) -> None:
        while view:
            _poll(fd, select.POLLOUT, self._shared.wake, None)
            if self._shared.closed or self._gone:
                raise WrongState("standard input is closed")
            try:
                view = view[os.write(fd, view) :]
            except BlockingIOError:
                continue
            except OSError as error:
                if error.errno not in (errno.EPIPE, errno.EIO):
                    raise
                raise WrongState("nobody reads standard input any more (broken pipe)") from None


def end_of_file(fd: int, *, in_line: bool) -> bytes:
    """What makes a terminal in line mode report end of file: VEOF, twice behind an unfinished line."""
    settings = fcntl.ioctl(fd, TCGETS, bytes(60))
    lflag = struct.unpack_from("I", settings, 12)[0]
    if not lflag & ICANON:
        return b""
    return settings[17 + VEOF : 18 + VEOF] * (2 if in_line else 1)


def resize(fd: int, rows: int, columns: int) -> None:
    """Set a terminal's size; the kernel sends SIGWINCH. Raises OSError."""
    fcntl.ioctl(fd, TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def _poll(fd: int, events: int, wake: int, timeout: float | None) -> bool:
    """Whether `fd` is ready (or in error) after at most `timeout` seconds; returns early when `wake` is."""
    poller = select.poll()
    poller.register(fd, events)
    if wake >= 0:
        poller.register(wake, select.POLLIN)
    ready: Sequence[tuple[int, int]] = poller.poll(None if timeout is None else int(timeout * 1000) + 1)
    return any(number == fd for number, _ in ready)

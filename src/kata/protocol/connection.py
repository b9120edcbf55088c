"""A two-way stream of bytes over one file descriptor, which several threads may use and any may end.

Made by `transport`, used by `channel`. Never add framing here.

Closing a descriptor while another thread waits on it would let that thread read from whatever gets the number next.
So `shutdown` ends the stream and wakes everybody, and `close`, which gives the number back, is for the owner
alone, when no other thread is inside any more.
"""

from __future__ import annotations

import os
import select
import socket
import stat
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType


INT_MAX = (1 << 31) - 1
WRITE_PIECE, READ_PIECE = 32 << 10, 4 << 10
"""Bytes that a virtio-serial port takes and gives in one write and one read at most (drivers/char/virtio_console.c).
writev(2) and readv(2) do one of them a piece, so that a long message costs one system call and not dozens."""
IOV_MAX = 1024
"""Pieces in one writev(2) (limits.h)."""


class Waker:
    """A descriptor that turns readable once and for ever: makes `wait` on another descriptor end early."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.woken = False

    def wake(self) -> None:
        """End all present and future waits. Harmless when repeated."""
        if not self.woken:
            self.woken = True
            os.eventfd_write(self._fd, 1)

    def wait(self, fd: int, events: int, deadline: float | None) -> bool:
        """Wait until `fd` has one of `events`, an error or a hang-up. False when woken first.

        `deadline` is a value of time.monotonic(). Raises TimeoutError when it passes.
        """
        poll = select.poll()
        poll.register(fd, events)
        poll.register(self._fd, select.POLLIN)
        ready = dict(poll.poll(_milliseconds(deadline)))
        if not ready:
            raise TimeoutError("the deadline passed")
        return self._fd not in ready

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._fd)


class Stalled(TimeoutError):  # noqa: N818 - says what happened, as the built-in BlockingIOError's kin do
    """The peer did not read in time; `sent` bytes of the data are on their way."""

    def __init__(self, sent: int) -> None:
        super().__init__("the peer does not read")
        self.sent = sent


class Connection:
    """The interface, and what sockets and devices have in common; `from_fd` makes the right kind."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @staticmethod
    def from_fd(fd: int) -> Connection:
        """Take over a descriptor: a stream socket, or a character device or pipe. Raises OSError."""
        if stat.S_ISSOCK(os.fstat(fd).st_mode):
            return SocketConnection(socket.socket(fileno=fd))
        return DeviceConnection(fd)

    def fileno(self) -> int:
        """The descriptor, still ours; -1 when closed."""
        return self._fd

    def read(self, size: int) -> bytes:
        """Wait for bytes and return at most `size` of them; empty at the end of the stream. Raises OSError."""
        raise NotImplementedError

    def write(
        self, data: bytes, deadline: float | None = None, stall: float | None = None, tail: bytes | memoryview = b""
    ) -> None:
        """Write all of `data` and then `tail`, neither of which is copied. One thread at a time.

        Raises OSError when the peer is gone, Stalled (an OSError too) when it has not read all until `deadline`, a
        value of time.monotonic(), or has read nothing at all for `stall` seconds.
        """
        pieces = self._pieces(memoryview(data)) + self._pieces(memoryview(tail))
        sent = 0
        while pieces:
            try:
                done = self._send(pieces)
            except BlockingIOError:
                try:
                    self._wait_writable(_earlier(deadline, stall))
                except TimeoutError:
                    raise Stalled(sent) from None
            else:
                sent += done
                pieces = _after(pieces, done)

    def _pieces(self, view: memoryview) -> list[memoryview]:
        """`view` cut as `_send` wants it; nothing of an empty one."""
        return [view] if view else []

    def _send(self, pieces: list[memoryview]) -> int:
        """Write what can be written at once; how many bytes that was. Raises BlockingIOError when it is nothing."""
        raise NotImplementedError

    def _wait_writable(self, deadline: float | None) -> None:
        raise NotImplementedError

    def shutdown(self) -> None:
        """End the stream in both directions and wake all threads. Harmless when repeated, not after `close`."""
        raise NotImplementedError

    def close(self) -> None:
        """Give the descriptor back. Harmless when repeated."""
        raise NotImplementedError

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class SocketConnection(Connection):
    """Over a connected stream socket of any family."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock.fileno())
        sock.setblocking(True)
        self._socket = sock

    def read(self, size: int) -> bytes:
        """See `Connection.read`."""
        return self._socket.recv(size)

    def _send(self, pieces: list[memoryview]) -> int:
        # The socket stays blocking, since its reader wants that; only sending does not.
        return self._socket.sendmsg(pieces, (), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def _wait_writable(self, deadline: float | None) -> None:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        if not poll.poll(_milliseconds(deadline)):
            raise TimeoutError

    def shutdown(self) -> None:
        """See `Connection.shutdown`."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the peer was faster

    def close(self) -> None:
        """See `Connection.close`."""
        self._fd = -1
        self._socket.close()


class DeviceConnection(Connection):
    """Over anything else that can be polled: a virtio-serial port, a terminal, a pipe."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        os.set_blocking(fd, False)
        self._waker = Waker()
        self._buffer = memoryview(b"")
        self._buffers: list[memoryview] = []

    def read(self, size: int) -> bytes:
        """See `Connection.read`. A virtio-serial port reads as ended while its host side is closed."""
        if len(self._buffer) != size:
            self._buffer = memoryview(bytearray(size))
            self._buffers = _cut(self._buffer, READ_PIECE)
        while not self._waker.woken:
            try:
                return bytes(self._buffer[: os.readv(self._fd, self._buffers)])
            except BlockingIOError:
                self._waker.wait(self._fd, select.POLLIN, None)
        return b""

    def _pieces(self, view: memoryview) -> list[memoryview]:
        return _cut(view, WRITE_PIECE)

    def _send(self, pieces: list[memoryview]) -> int:
        if self._waker.woken:
            raise BrokenPipeError("the connection was shut down")
        return os.writev(self._fd, pieces[:IOV_MAX])

    def _wait_writable(self, deadline: float | None) -> None:
        """A port whose host side is closed polls POLLHUP for ever and takes nothing: its peer is gone."""
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        if any(events & select.POLLHUP for _, events in poll.poll(0)):
            raise BrokenPipeError("the other side of the device is closed")
        self._waker.wait(self._fd, select.POLLOUT, deadline)

    def shutdown(self) -> None:
        """See `Connection.shutdown`."""
        self._waker.wake()

    def close(self) -> None:
        """See `Connection.close`."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)
            self._waker.close()


def _cut(view: memoryview, size: int) -> list[memoryview]:
    return [view[start : start + size] for start in range(0, len(view), size)]


def _after(pieces: list[memoryview], done: int) -> list[memoryview]:
    """What is left of `pieces` when their first `done` bytes are away."""
    for index, piece in enumerate(pieces):
        if done < len(piece):
            return [piece[done:], *pieces[index + 1 :]]
        done -= len(piece)
    return []


def _earlier(deadline: float | None, seconds: float | None) -> float | None:
    """The earlier of a point in time and some seconds from now."""
    if seconds is None:
        return deadline
    end = time.monotonic() + seconds
    return end if deadline is None else min(end, deadline)


def _milliseconds(deadline: float | None) -> float | None:
    """What poll(2) takes; rounded up, so that a wait never ends just before its deadline."""
    if deadline is None:
        return None
    return min(max(0, int((deadline - time.monotonic()) * 1000) + 1), INT_MAX)

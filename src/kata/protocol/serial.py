"""The guest's side of a virtio-serial port, as a listener: each time the host connects there is a connection.

Called by `transport.listen` for serial:// addresses. Never add framing here.

A port (Documentation: drivers/char/virtio_console.c) is a character device that one process at a time may open
(EBUSY). While the host's side is closed, reads give 0 bytes, writes are held, and poll says POLLHUP at once. So

 * the end of a connection looks as it does on a socket: a read of 0 bytes;
 * waiting for the host cannot be done with poll(2), which would return at once for ever. The kernel does wake
   pollers when the host opens its side, and edge-triggered epoll reports exactly that;
 * each connection opens the device anew: closing it makes the kernel drop what an earlier host had sent, so that
   framing starts clean. The host may lose a first request that way and has to repeat it (`client.connect_agent`).
"""

from __future__ import annotations

import errno
import os
import select
import threading
import time

from kata.protocol.connection import Connection, DeviceConnection
from kata.protocol.transport import Listener

RECHECK = 1.0
"""Seconds after which the port's state is looked at again even without an edge: costs nothing, and a kernel that
forgot one would otherwise hang a sandbox for ever."""


class SerialConnection(DeviceConnection):
    """A connection that tells its listener when the device is free again."""

    def __init__(self, fd: int, listener: SerialListener) -> None:
        super().__init__(fd)
        self._listener = listener

    def close(self) -> None:
        """See `Connection.close`."""
        super().close()
        self._listener.released(self)


class SerialListener(Listener):
    """Accepts the host on the port at `path`, once at a time: `accept` also waits for the last connection's close."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._changed = threading.Condition()
        self._current: Connection | None = None
        self._closed = False
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._accepting = threading.Lock()

    def accept(self, timeout: float | None = None) -> Connection:
        """See `Listener.accept`. Raises OSError too where the port cannot be opened."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._accepting:
            self._wait_free(deadline)
            fd = os.open(self._path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                self._wait_host(fd, deadline)
            except BaseException:
                os.close(fd)
                raise
            self._current = connection = SerialConnection(fd, self)
            return connection

    def released(self, connection: Connection) -> None:
        """Called by a connection that was closed."""
        with self._changed:
            if self._current is connection:
                self._current = None
            self._changed.notify_all()

    def close(self) -> None:
        """See `Listener.close`. The connection there may be lives on."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
        os.eventfd_write(self._wake, 1)
        with self._accepting:
            os.close(self._wake)

    def _wait_free(self, deadline: float | None) -> None:
        timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
        with self._changed:
            if not self._changed.wait_for(lambda: self._closed or self._current is None, timeout):
                raise TimeoutError("the port is in use")
            self._check_open()

    def _wait_host(self, fd: int, deadline: float | None) -> None:
        with select.epoll(flags=select.EPOLL_CLOEXEC) as epoll:
            epoll.register(self._wake, select.EPOLLIN)
            epoll.register(fd, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)
            while not host_connected(fd):
                self._check_open()
                if deadline is not None and time.monotonic() >= deadline:
                    raise TimeoutError("the host did not connect")
                epoll.poll(RECHECK if deadline is None else min(RECHECK, max(0.0, deadline - time.monotonic())))
            self._check_open()

    def _check_open(self) -> None:
        if self._closed:
            raise OSError(errno.EBADF, "the listener was closed")


def host_connected(fd: int) -> bool:
    """Whether the host's side of the port is open."""
    poll = select.poll()
    poll.register(fd, 0)
    return not poll.poll(0)

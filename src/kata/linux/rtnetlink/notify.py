"""Waiting until something changes in a network namespace, by rtnetlink's multicast groups.

Called by the network room while it waits for an engine to set a network up. Says only that something changed:
whoever waits looks again, so a lost message costs nothing.
"""

from __future__ import annotations

import errno
import socket
import time

from kata.linux.rtnetlink.base import NETLINK_ROUTE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

# linux/rtnetlink.h
RTMGRP_LINK = 0x1
RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE = 0x10, 0x40
RTMGRP_IPV6_IFADDR, RTMGRP_IPV6_ROUTE = 0x100, 0x400
CONFIGURATION = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_IFADDR | RTMGRP_IPV6_ROUTE
_RECEIVE = 1 << 16
_MOST = 10_000  # messages taken as one change: who changes things without end must not hold us


class Notifications:
    """Hears of changes in the namespace that the calling thread is in when this is made. For one thread."""

    def __init__(self, groups: int = CONFIGURATION) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_ROUTE)
        try:
            self._socket.bind((0, groups))
        except OSError:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()

    def fileno(self) -> int:
        """To be polled together with others: readable means that `wait` will not wait long."""
        return self._socket.fileno()

    def wait(self, deadline: float) -> bool:
        """True once something has changed since the last call, False when `deadline` (time.monotonic) is past.

        What has piled up is taken as one change.
        """
        while (remaining := deadline - time.monotonic()) > 0:
            self._socket.settimeout(remaining)
            try:
                heard = self._from_kernel()
            except TimeoutError:
                return False
            if heard:
                self._drain()
                return True
        return False

    def _from_kernel(self) -> bool:
        try:
            _data, (port, _groups) = self._socket.recvfrom(_RECEIVE)
        except OSError as error:
            if error.errno != errno.ENOBUFS:  # more happened than the buffer holds: that is a change too
                raise
            return True
        return bool(port == 0)

    def _drain(self) -> None:
        self._socket.setblocking(False)
        try:
            for _ in range(_MOST):
                self._from_kernel()
        except BlockingIOError:
            pass

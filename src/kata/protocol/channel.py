"""Frames over one connection: one thread reads, any number write.

Called by `client` and `server`, each of which runs `receive` in a thread of its own. Never add calls or streams.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from kata.protocol.connection import Stalled
from kata.protocol.frame import Decoder, encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from kata.protocol.connection import Connection
    from kata.protocol.frame import Frame

READ_SIZE = 256 << 10
"""More than what a unix socket's buffer holds (net.core.wmem_default); a long frame comes in few pieces."""
LONG = 32 << 10
"""Bytes from which on a second piece of a write costs less than putting a frame together."""


class Channel:
    """Owns a connection from now on. It is closed when `receive` ends, which `shutdown` brings about.

    A peer that takes no byte for `stall` seconds while one is to be sent is given up (None: never).
    """

    def __init__(self, connection: Connection, stall: float | None = None) -> None:
        self._connection = connection
        self._stall = stall
        self._write_lock = threading.Lock()
        self._end_lock = threading.Lock()
        self._down = False

    def send(
        self,
        stream: int,
        kind: int,
        flags: int,
        payload: bytes,
        tail: bytes | memoryview = b"",
        deadline: float | None = None,
    ) -> None:
        """Send one frame whole; its payload is `payload` and then `tail`, which is not copied when long.

        Raises OSError when the peer is gone, TimeoutError when it does not read in time.

        After a time-out in the middle of a frame the peer could not make sense of another one: the channel goes
        down. A time-out before the first byte leaves it as it is.
        """
        if len(tail) < LONG:
            payload, tail = payload + tail, b""
        head = encode(stream, kind, flags, payload, len(tail))
        if not self._write_lock.acquire(timeout=seconds_until(deadline)):
            raise TimeoutError("other messages wait for the peer to read")
        try:
            if self._down:
                raise BrokenPipeError("the connection is closed")
            self._write(head, tail, deadline)
        finally:
            self._write_lock.release()

    def _write(self, head: bytes, tail: bytes | memoryview, deadline: float | None) -> None:
        try:
            self._connection.write(head, deadline, self._stall, tail)
        except OSError as error:
            if not isinstance(error, Stalled) or error.sent:
                self.shutdown()
            raise

    def receive(self, handle: Callable[[Frame], None]) -> None:
        """Hand each frame to `handle` until the stream ends, then close the connection. For one thread, once."""
        decoder = Decoder()
        try:
            while data := self._connection.read(READ_SIZE):
                for frame in decoder.feed(data):
                    handle(frame)
        except OSError:
            pass  # reset instead of closed: over either way
        finally:
            self.shutdown()
            with self._write_lock, self._end_lock:
                self._connection.close()

    def shutdown(self) -> None:
        """End the connection from any thread; `receive` returns soon after. Harmless when repeated."""
        with self._end_lock:
            if not self._down:
                self._down = True
                self._connection.shutdown()


def seconds_until(deadline: float | None) -> float:
    """What Lock.acquire takes: -1 waits for ever."""
    if deadline is None:
        return -1
    return min(max(0.0, deadline - time.monotonic()), threading.TIMEOUT_MAX)

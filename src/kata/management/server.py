"""Serves HTTP at one unix socket: a thread for each connection, one request each, a deadline for everything.

Made by `serve`. Knows nothing of what is answered. A client that is slow, silent or wrong costs a thread for a while,
and there are few of those; nothing that it does reaches the sandbox.
"""

from __future__ import annotations

import os
import select
import threading
import time
from typing import TYPE_CHECKING

from kata.linux.peer import peer_uid
from kata.management.errors import HttpError
from kata.management.http import CONTINUE, END_OF_HEAD, HEAD_LIMIT, Head, Request, failure, parse_head, render
from kata.protocol.transport import listen

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from kata.log import Logger
    from kata.management.http import Response
    from kata.protocol.connection import Connection

MAX_CONNECTIONS = 16
REQUEST_TIMEOUT, ANSWER_TIMEOUT = 10.0, 30.0
"""Seconds for a whole request to come, and for its answer to be taken."""
SHORTAGE_PAUSE = 0.1
CHUNK = 65536


class ManagementServer:
    """Answers requests at `path` from `start` to `close`. `answer` may take its time; it never raises."""

    def __init__(
        self,
        path: str,
        answer: Callable[[Request], Response],
        log: Logger,
        *,
        request_timeout: float = REQUEST_TIMEOUT,
        answer_timeout: float = ANSWER_TIMEOUT,
    ) -> None:
        self._answer = answer
        self._log = log
        self._timeouts = request_timeout, answer_timeout
        self._listener = listen(f"unix://{path}")
        self._lock = threading.Lock()
        self._connections: set[Connection] = set()
        self._closing = threading.Event()

    def __enter__(self) -> ManagementServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Begin to accept."""
        threading.Thread(target=self._accept, name="management", daemon=True).start()

    def close(self) -> None:
        """Accept nothing more, remove the socket, end every connection. Harmless when repeated."""
        self._closing.set()
        self._listener.close()
        with self._lock:
            for connection in self._connections:
                connection.shutdown()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                connection = self._listener.accept()
            except OSError as error:
                if not self._closing.is_set():
                    self._log.warn("a management connection was not accepted", error=error)
                    self._closing.wait(SHORTAGE_PAUSE)  # out of descriptors or memory: somebody else gives some back
                continue
            self._enter(connection)

    def _enter(self, connection: Connection) -> None:
        with self._lock:
            full = len(self._connections) >= MAX_CONNECTIONS
            if not full and not self._closing.is_set():
                self._connections.add(connection)
        try:
            if full:
                _send(connection, render(failure(503, "too many connections")), 0.0)
                connection.close()
            elif self._closing.is_set():
                self._leave(connection)
            else:
                threading.Thread(target=self._serve, args=(connection,), name="management-call", daemon=True).start()
        except RuntimeError:  # no more threads
            self._leave(connection)

    def _leave(self, connection: Connection) -> None:
        with self._lock:
            self._connections.discard(connection)
            connection.close()

    def _serve(self, connection: Connection) -> None:
        try:
            response, head_only = self._respond(connection)
            _send(connection, render(response, head_only=head_only), self._timeouts[1])
        except OSError:
            pass  # the client is gone; there is nobody to tell
        finally:
            self._leave(connection)

    def _respond(self, connection: Connection) -> tuple[Response, bool]:
        if peer_uid(connection.fileno()) not in (0, os.geteuid()):
            return failure(403, "only root is answered"), False
        try:
            request = receive(connection, time.monotonic() + self._timeouts[0])
        except HttpError as error:
            return failure(error.status, error.text), False
        return self._answer(request), request.method == "HEAD"


def receive(connection: Connection, deadline: float) -> Request:
    """One request; what follows it is not read. Raises HttpError, OSError when the client is gone."""
    data = b""
    while END_OF_HEAD not in data:
        if len(data) > HEAD_LIMIT:
            raise HttpError(431, f"the head may have {HEAD_LIMIT} bytes")
        data += _read(connection, deadline)
    text, _, body = data.partition(END_OF_HEAD)
    if len(text) > HEAD_LIMIT:
        raise HttpError(431, f"the head may have {HEAD_LIMIT} bytes")
    head = parse_head(text)
    if head.waits and len(body) < head.length:
        _send(connection, CONTINUE, max(0.0, deadline - time.monotonic()))
    return Request(head.method, head.path, head.query, _body(connection, head, body, deadline))


def _body(connection: Connection, head: Head, begun: bytes, deadline: float) -> bytes:
    parts, missing = [begun[: head.length]], head.length - len(begun)
    while missing > 0:
        part = _read(connection, deadline)[:missing]
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def _read(connection: Connection, deadline: float) -> bytes:
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise HttpError(408, "the request did not come in time")
    data = connection.read(CHUNK)
    if not data:
        raise HttpError(400, "the request ends too early")
    return data


def _send(connection: Connection, data: bytes, timeout: float) -> None:
    try:
        connection.write(data, time.monotonic() + timeout)
    except OSError:
        pass

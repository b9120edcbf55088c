"""The agent's log for the host: JSON lines to whoever connects to the log's port, one reader at a time.

Started by `__main__` when `agent.log_vport` asks for it. Records wait in a queue of fixed size, oldest dropped first
and counted, so that no request ever waits for a host that does not read. The console gets every record all the same.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import deque

from kata.protocol.transport import listen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from kata.protocol.connection import Connection
    from kata.protocol.transport import Listener

LIMIT = 256 << 10
"""Bytes of records that wait for a reader."""
STALL = 60.0
"""Seconds after which a reader that takes nothing is given up, for another one's sake."""
RETRY = 1.0
"""Seconds until a port that could not be opened is tried again."""
LEVELS = {"trace": "TRCE", "debug": "DEBG", "info": "INFO", "warn": "WARN", "error": "ERRO", "critical": "CRIT"}
"""Names of levels as hosts know them from upstream's agent."""


class LogStream:
    """A queue of records and the thread that hands them to the host."""

    def __init__(self, find: Callable[[], str], *, version: str, limit: int = LIMIT) -> None:
        self._find = find
        self._limit = limit
        self._fixed = {"version": version, "pid": str(os.getpid()), "source": "agent", "subsystem": "agent"}
        self._changed = threading.Condition()
        self._lines: deque[bytes] = deque()
        self._size = 0
        self._dropped = 0

    def start(self) -> None:
        """Begin to listen, in a thread that lives as long as the agent."""
        threading.Thread(target=self._run, name="log-stream", daemon=True).start()

    def put(self, record: dict[str, object]) -> None:
        """Queue one record. Never blocks; what does not fit pushes out the oldest."""
        line = self._render(record)
        with self._changed:
            self._lines.append(line)
            self._size += len(line)
            while self._size > self._limit:
                self._size -= len(self._lines.popleft())
                self._dropped += 1
            self._changed.notify_all()

    def serve(self, listener: Listener) -> None:
        """Hand records to one reader after the other. Raises OSError when the listener breaks or is closed."""
        while True:
            with listener.accept() as connection:
                self._feed(connection)

    def _run(self) -> None:
        address = self._find()
        if not address:
            return
        retry = threading.Event()
        while True:
            try:
                with listen(address) as listener:
                    self.serve(listener)
            except OSError:
                retry.wait(RETRY)  # nobody to tell: this is the log

    def _feed(self, connection: Connection) -> None:
        """Until the reader is gone. A record that it did not take whole is kept for the next one."""
        while True:
            line, dropped = self._next()
            try:
                if dropped:
                    connection.write(self._confession(dropped), stall=STALL)
                connection.write(line, stall=STALL)
            except OSError:
                self._keep(line, dropped)
                return

    def _next(self) -> tuple[bytes, int]:
        with self._changed:
            self._changed.wait_for(lambda: self._lines)  # a record comes or the agent ends
            line = self._lines.popleft()
            self._size -= len(line)
            dropped, self._dropped = self._dropped, 0
        return line, dropped

    def _keep(self, line: bytes, dropped: int) -> None:
        with self._changed:
            self._lines.appendleft(line)
            self._size += len(line)
            self._dropped += dropped

    def _confession(self, dropped: int) -> bytes:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        return self._render({"ts": stamp, "level": "warn", "msg": "log records were dropped", "dropped": dropped})

    def _render(self, record: dict[str, object]) -> bytes:
        values = {**self._fixed, **{key: str(value) for key, value in record.items()}}
        values["level"] = LEVELS.get(values["level"], values["level"])
        return (json.dumps(values) + "\n").encode()

"""One thread that ends calls whose time is up.

Called by `server`. Never add a queue of timers: a call that ends in time, as nearly all do, must cost next to
nothing, so the thread wakes at the earliest deadline it was told of and looks which calls are still there.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    class Timed(Protocol):
        """A call, as far as this room is concerned."""

        @property
        def deadline(self) -> float | None: ...


NEVER = float("inf")


class Deadlines:
    """Calls `expire` with each added call whose deadline passes before it is removed. The thread starts when needed."""

    def __init__(self, expire: Callable[[Timed], None]) -> None:
        self._expire = expire
        self._changed = threading.Condition()
        self._calls: dict[int, Timed] = {}
        self._next = NEVER
        self._thread: threading.Thread | None = None
        self._closed = False

    def add(self, call: Timed) -> None:
        """Watch a call that has a deadline, a value of time.monotonic()."""
        assert call.deadline is not None
        with self._changed:
            self._calls[id(call)] = call
            if call.deadline < self._next:
                self._next = call.deadline
                self._changed.notify()
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._watch, name="ttrpc-deadlines", daemon=True)
                self._thread.start()

    def remove(self, call: Timed) -> None:
        """The call is over. Harmless when it is not watched."""
        with self._changed:
            self._calls.pop(id(call), None)

    def close(self) -> None:
        """Stop watching; nothing expires any more."""
        with self._changed:
            self._closed = True
            self._calls.clear()
            self._changed.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _watch(self) -> None:
        while not self._closed:
            for call in self._due():
                self._expire(call)

    def _due(self) -> list[Timed]:
        """Wait for the next deadline; the calls whose time is up, no longer watched."""
        with self._changed:
            while not self._closed and (left := self._next - time.monotonic()) > 0:
                self._changed.wait(min(left, threading.TIMEOUT_MAX))
            now = time.monotonic()
            due = [call for call in self._calls.values() if call.deadline is not None and call.deadline <= now]
            for call in due:
                del self._calls[id(call)]
            self._next = min((call.deadline or NEVER for call in self._calls.values()), default=NEVER)
            return due

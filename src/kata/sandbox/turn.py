"""One at a time, with a deadline, and without a lock that is held while its holder waits."""

from __future__ import annotations

import threading

from kata.sandbox.errors import ConflictError


class Turn:
    """A context manager: whoever comes while another is inside waits for its turn, `timeout` seconds at most."""

    def __init__(self, what: str, timeout: float) -> None:
        self._what = what
        self._timeout = timeout
        self._free = threading.Condition()
        self._taken = False

    def __enter__(self) -> None:
        with self._free:
            if not self._free.wait_for(lambda: not self._taken, self._timeout):
                raise ConflictError(f"another {self._what} is under way", hint="try again in a moment")
            self._taken = True

    def __exit__(self, *_exception: object) -> None:
        with self._free:
            self._taken = False
            self._free.notify()

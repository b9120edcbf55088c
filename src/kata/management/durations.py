"""How long calls took: a histogram for each action. On the start path, so it has no imports to speak of.

Buckets are upstream's: ten, each twice the one before, from 1 ms (shim behaviour, section 12).
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

BUCKETS = tuple(1 << power for power in range(10))
"""Upper ends in milliseconds."""


class Histogram:
    """The calls of one action: `counts` by bucket (the last is for those above all), their `total` milliseconds."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.total = 0.0


class Durations:
    """Histograms by action. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._actions: dict[str, Histogram] = {}

    def observe(self, action: str, milliseconds: float) -> None:
        """One call more."""
        bucket = next((place for place, end in enumerate(BUCKETS) if milliseconds <= end), len(BUCKETS))
        with self._lock:
            found = self._actions.setdefault(action, Histogram())
            found.counts[bucket] += 1
            found.total += milliseconds

    def snapshot(self) -> list[tuple[str, tuple[int, ...], float]]:
        """Action, counts and total of each, by name."""
        with self._lock:
            return [(name, tuple(found.counts), found.total) for name, found in sorted(self._actions.items())]


class Timed:
    """A service whose methods are timed: stands in for it in a server's table."""

    def __init__(self, service: object, durations: Durations) -> None:
        self._service = service
        self._durations = durations

    def __getattr__(self, name: str) -> Callable[[object, object], object]:
        method = getattr(self._service, name)

        def timed(request: object, call: object) -> object:
            begin = time.monotonic()
            try:
                return method(request, call)
            finally:
                self._durations.observe(name, (time.monotonic() - begin) * 1000)

        return timed

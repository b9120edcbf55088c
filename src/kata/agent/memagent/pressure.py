"""How much of the time tasks waited for memory, from the kernel's pressure files (Documentation/accounting/psi.rst)."""

from __future__ import annotations

import time

from kata.linux.fds import read_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Pressure:
    """One pressure file; each `percent` is about the time since the one before. Raises OSError without the file."""

    def __init__(self, path: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._then = clock()
        self._total = stalled(read_text(path))

    def percent(self) -> float:
        """The share of the time since the last call in which some task waited for memory."""
        now, total = self._clock(), stalled(read_text(self._path))
        elapsed = now - self._then
        share = 100.0 * (total - self._total) / elapsed if elapsed > 0 else 0.0
        self._then, self._total = now, total
        return share


def stalled(text: str) -> float:
    """Seconds in all that some task waited: the `total` (microseconds) of the line "some"."""
    for line in text.splitlines():
        kind, *pairs = line.split()
        if kind == "some":
            return int(dict(pair.split("=") for pair in pairs)["total"]) / 1e6
    raise OSError('the pressure file has no line "some"')

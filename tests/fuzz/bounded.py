"""Runs one input within bounds: a time, after which it counts as stuck, and how much memory it may take."""

from __future__ import annotations

import resource
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

    from tests.fuzz.targets import Target

STUCK = 60
"""Seconds. No input takes more than a fraction of one, however slow the machine is."""
MEMORY_MIB = 512


class StuckError(AssertionError):
    """An input took too long."""


def run(target: Target, data: bytes) -> None:
    """Raises what the target raises, and AssertionError beyond the bounds. On the main thread alone."""
    before = signal.signal(signal.SIGALRM, _stuck)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.alarm(STUCK)
    try:
        target.run(data)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) >> 10
    assert grown < MEMORY_MIB, f"{len(data)} bytes took {grown} MiB"


def _stuck(_number: int, _frame: FrameType | None) -> None:
    raise StuckError(f"not done after {STUCK} s")

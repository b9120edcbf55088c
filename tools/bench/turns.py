"""Taking turns: whatever is compared is done one after the other, again and again, on a machine that changes.

Used by all parts. A machine that is busy for a while is so for all ways.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def take(
    ways: Mapping[str, Callable[[], float]], runs: int, *, warm_up: int = 1, sparse: Mapping[str, int] | None = None
) -> dict[str, list[float]]:
    """What each way gives, `runs` times in turns, after `warm_up` turns that do not count.

    `sparse`: ways that take part in every so many turns only, since they take long.
    """
    every = sparse or {}
    samples: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(-warm_up, runs):
        for name, measure in ways.items():
            if turn % every.get(name, 1) == 0 or turn == -1:
                figure = measure()
                if turn >= 0:
                    samples[name].append(figure)
    return samples


def milliseconds(action: Callable[[], object]) -> Callable[[], float]:
    """A measurement: how long `action` takes."""
    return lambda: timed(action) * 1000


def rate(action: Callable[[], object], amount: float) -> Callable[[], float]:
    """A measurement: `amount` by the seconds that `action` takes."""
    return lambda: amount / timed(action)


def timed(action: Callable[[], object]) -> float:
    """Seconds that it takes."""
    begin = time.monotonic()
    action()
    return time.monotonic() - begin

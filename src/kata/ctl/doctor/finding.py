"""One thing that is left or wrong on this host, and what became of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

State = Literal["left", "wrong", "repaired", "failed"]


class Finding(NamedTuple):
    """Something that should not be. `kind` and `subject` are for programs, `found` is a sentence about both.

    `repair` takes it away and says what it did, or raises KataError or OSError; it looks again by itself whether the
    thing still is what it was. None where that is for a person to do, as `advice` says.
    """

    kind: str
    subject: str
    found: str
    repair: Callable[[], str] | None = None
    advice: str = ""


class Outcome(NamedTuple):
    """A finding as it is now: `left` may be repaired, `wrong` is for a person. `said`: what was done, or what to do."""

    finding: Finding
    state: State
    said: str

"""What one decision may cost, what it printed, and how values are written. Nothing of rules belongs here.

A decision has a number of steps, counted and not timed: the same policy and request give the same answer on a slow
machine. A step is about one comparison, look-up or element; work that grows with the size of a value pays by size
before it is done, so time and memory are bounded together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kata.agent.policy.values import UNDEFINED, Array, EvaluationError, Object, Set, Value, entries, weight

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kata.agent.policy.regex import Regex

MAX_STEPS = 1_000_000
MAX_PRINTS = 1000
"""The last ones are kept: they tell why a request was denied."""
MAX_TEXT = 1 << 15
"""Characters of everything printed together, and of one value in it a quarter of that."""
MAX_REGEXES = 128
MAX_INSTRUCTIONS = 50_000
"""Compiled patterns that a policy keeps, and what is in all of them together."""


class Meter:
    """The account of one decision. `regexes` belongs to the policy and outlives it."""

    __slots__ = ("left", "prints", "regexes")

    def __init__(self, regexes: dict[str, Regex], steps: int = MAX_STEPS) -> None:
        self.left = steps
        self.prints: list[tuple[int, list[Value]]] = []
        self.regexes = regexes

    def spend(self, steps: int) -> None:
        """Pay. Raises EvaluationError when nothing is left."""
        self.left -= steps
        if self.left < 0:
            self.fail()

    def fail(self) -> None:
        """Raise the error for a decision that costs too much."""
        raise EvaluationError(f"the decision needs more than {MAX_STEPS} steps")

    def print(self, line: int, values: list[Value]) -> None:
        """Keep what a rule prints; it is written when it is asked for."""
        self.prints.append((line, values))
        if len(self.prints) > 2 * MAX_PRINTS:
            del self.prints[:MAX_PRINTS]

    def regex(self, pattern: str) -> Regex:
        """The compiled pattern. Raises EvaluationError for one that is not understood."""
        from kata.agent.policy.regex import PatternError, Regex

        found = self.regexes.get(pattern)
        if found is None:
            self.spend(len(pattern))
            try:
                found = Regex(pattern)
            except PatternError as error:
                raise EvaluationError(f"the pattern {pattern[:200]!r} is not understood: {error}") from None
            self.spend(found.size)
            size = found.size + sum(kept.size for kept in self.regexes.values())
            if len(self.regexes) >= MAX_REGEXES or size > MAX_INSTRUCTIONS:
                self.regexes.clear()
            self.regexes[pattern] = found
        return found

    def printed(self, name: str) -> str:
        """All that was printed, each with the policy's name and line; the beginning is left out when it is long."""
        found: list[str] = []
        room = MAX_TEXT
        for line, values in reversed(self.prints[-MAX_PRINTS:]):
            words = [text(value, MAX_TEXT // 4) for value in values]
            found.append(f"{name}:{line}: {' '.join(words)}")
            room -= len(found[-1]) + 1
            if room < 0:
                found.append("...")
                break
        return " ".join(reversed(found))


def text(value: Value, limit: int = MAX_TEXT) -> str:
    """A value as `print` and `sprintf` write it: a string as it is, everything else nearly as in a policy."""
    if isinstance(value, str):
        return value if len(value) <= limit else value[:limit] + "..."
    found: list[str] = []
    room = limit
    for piece in _pieces(value):
        found.append(piece)
        room -= len(piece)
        if room < 0:
            found.append("...")
            break
    return "".join(found)


def cost(left: Value, right: Value) -> int:
    """Steps that comparing two values takes at most."""
    return min(weight(left), weight(right))


def _pieces(value: Value) -> Iterator[str]:
    if value is None:
        yield "null"
    elif isinstance(value, str):
        yield _quoted(value)
    elif isinstance(value, Object):
        yield from _joined("{", "}", value)
    elif isinstance(value, Array):
        yield from _joined("[", "]", value)
    elif isinstance(value, Set):
        yield from _joined("{", "}", value) if value.items else iter(("set()",))
    elif value is UNDEFINED:
        yield "<undefined>"
    else:
        yield repr(value)


def _joined(begin: str, end: str, collection: Value) -> Iterator[str]:
    yield begin
    separator = ""
    for key, value in entries(collection):
        yield separator
        if isinstance(collection, Object):
            yield from _pieces(key)
            yield ": "
        yield from _pieces(value)
        separator = ", "
    yield end


def _quoted(value: str) -> str:
    import json

    return json.dumps(value, ensure_ascii=False)

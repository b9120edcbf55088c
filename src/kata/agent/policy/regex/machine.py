"""Matching in time that grows with the length of the text, whatever the pattern: a set of states, no backtracking.

Two ways over the same program. `matches` only says whether: it keeps the sets of states it has seen, with what each
character led to, so that a pattern used often costs a look-up for each character. `find` says where, and where the
groups are, by threads in the order of their priority (as Pike's machine does; leftmost, then first alternative).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from kata.agent.policy.regex.syntax import (
    WORD,
    Assertion,
    Chars,
    Choice,
    Group,
    Node,
    PatternError,
    Ranges,
    Repeat,
    Sequence,
    parse,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    Spend = Callable[[int], None]
    Captures = tuple[int, ...]

MAX_PROGRAM = 10_000
"""Instructions. RE2 has such a limit too, for the same reason."""
MAX_KEPT = 10_000
"""Places in the states, and ways between them, that are kept of one pattern; then they are found anew."""
START, WORD_CHAR, OTHER, NEWLINE, END = range(5)
CHAR, SPLIT, SAVE, ASSERT, MATCH = range(5)


class State:
    """Places in the program between two characters, and where each character led. `before`: the last one's kind."""

    __slots__ = ("before", "next", "places")

    def __init__(self, places: frozenset[int], before: int) -> None:
        self.places = places
        self.before = before
        self.next: dict[str, State | None] = {}


class Regex:
    """A compiled pattern. Raises PatternError for one that is not understood, or too large."""

    def __init__(self, pattern: str) -> None:
        tree, self.groups = parse(pattern)
        self._program: list[tuple[int, object, int, int]] = []
        self._add(tree)
        self._emit(MATCH)
        self._states: dict[tuple[frozenset[int], int], State] = {}
        self._kept = 0

    @property
    def size(self) -> int:
        """Instructions."""
        return len(self._program)

    # Compiling: instructions are (kind, what, next, other); `other` is the less wanted way of a SPLIT.

    def _emit(self, kind: int, what: object = None) -> int:
        if len(self._program) >= MAX_PROGRAM:
            raise PatternError(f"larger than {MAX_PROGRAM} instructions")
        self._program.append((kind, what, len(self._program) + 1, -1))
        return len(self._program) - 1

    def _split(self, at: int, wanted: int, other: int, greedy: bool = True) -> None:
        first, second = (wanted, other) if greedy else (other, wanted)
        self._program[at] = (SPLIT, None, first, second)

    def _add(self, node: Node) -> None:
        if isinstance(node, Chars):
            self._emit(CHAR, node.ranges)
        elif isinstance(node, Assertion):
            self._emit(ASSERT, node.kind)
        elif isinstance(node, Sequence):
            for part in node.parts:
                self._add(part)
        elif isinstance(node, Group):
            self._emit(SAVE, 2 * node.number)
            self._add(node.part)
            self._emit(SAVE, 2 * node.number + 1)
        elif isinstance(node, Choice):
            self._add_choice(node)
        else:
            self._add_repeat(node)

    def _add_choice(self, node: Choice) -> None:
        jumps = []
        for part in node.parts[:-1]:
            split = self._emit(SPLIT)
            self._add(part)
            jumps.append(self._emit(SPLIT))
            self._split(split, split + 1, len(self._program))
        self._add(node.parts[-1])
        for jump in jumps:
            self._split(jump, len(self._program), -1)

    def _add_repeat(self, node: Repeat) -> None:
        for _ in range(node.least - (node.most is None and node.least > 0)):
            self._add(node.part)
        if node.most is None:
            # x* is made as (x+)?: only so does an empty alternative that comes first win, as in RE2.
            skip = self._emit(SPLIT) if node.least == 0 else -1
            loop = len(self._program)
            self._add(node.part)
            back = self._emit(SPLIT)
            self._split(back, loop, len(self._program), node.greedy)
            if skip >= 0:
                self._split(skip, loop, len(self._program), node.greedy)
            return
        splits = []
        for _ in range(node.most - node.least):
            splits.append(self._emit(SPLIT))
            self._add(node.part)
        for split in splits:
            self._split(split, split + 1, len(self._program), node.greedy)

    # Whether

    def matches(self, text: str, spend: Spend) -> bool:
        """Whether any part of the text matches."""
        spend(1 + (len(text) >> 3))
        state = self._state(frozenset(), START)
        for char in text:
            try:
                following = state.next[char]
            except KeyError:
                following = self._follow(state, char, spend)
            if following is None:
                return True
            state = following
        return self._reach(state, END, spend) is None

    def _follow(self, state: State, char: str, spend: Spend) -> State | None:
        """The state behind a character; None when there is a match before it."""
        places = self._reach(state, kind(char), spend)
        found = None
        if places is not None:
            after = frozenset(self._program[place][2] for place in places if _fits(self._program[place][1], char))
            found = self._state(after, kind(char))
            self._kept += len(after)
        self._kept += 1
        if self._kept > MAX_KEPT:
            self._states.clear()
            self._kept = 0
            return found and State(found.places, found.before)
        state.next[char] = found
        return found

    def _state(self, places: frozenset[int], before: int) -> State:
        key = (places, before)
        if key not in self._states:
            self._states[key] = State(places, before)
        return self._states[key]

    def _reach(self, state: State, after: int, spend: Spend) -> list[int] | None:
        """The CHAR instructions that can be reached without a character; None when the end can."""
        stack, seen, found = [0, *state.places], set[int](), []
        while stack:
            place = stack.pop()
            if place in seen:
                continue
            seen.add(place)
            code, what, following, other = self._program[place]
            if code == MATCH:
                return None
            if code == CHAR:
                found.append(place)
            elif code != ASSERT or holds(str(what), state.before, after):
                stack.append(following)
                if other >= 0:
                    stack.append(other)
        spend(1 + (len(seen) >> 2))
        return found

    # Where

    def find(self, text: str, begin: int, spend: Spend) -> Captures | None:
        """Begin and end of the first match from `begin` on, and of each group (-1 where it took no part)."""
        found: Captures | None = None
        threads: list[tuple[int, Captures]] = []
        blank = (-1,) * (2 * self.groups + 2)
        for position in range(begin, len(text) + 1):
            if found is None:
                threads.append((0, (position, *blank[1:])))
            elif not threads:
                break
            spend(1 + len(threads))
            before = kind(text[position - 1]) if position else START
            char = text[position] if position < len(text) else ""
            threads, ended = self._step(threads, position, before, char)
            found = ended or found
        return found

    def _step(
        self, threads: list[tuple[int, Captures]], position: int, before: int, char: str
    ) -> tuple[list[tuple[int, Captures]], Captures | None]:
        """Let every thread take one character, in order; a thread that ends cuts off those behind it."""
        after = kind(char) if char else END
        seen = set[int]()
        following: list[tuple[int, Captures]] = []
        stack = threads[::-1]
        while stack:
            place, captures = stack.pop()
            if place in seen:
                continue
            seen.add(place)
            code, what, first, other = self._program[place]
            if code == MATCH:
                return following, (captures[0], position, *captures[2:])
            if code == CHAR:
                if char and _fits(what, char):
                    following.append((first, captures))
            elif code != ASSERT or holds(str(what), before, after):
                if other >= 0:
                    stack.append((other, captures))
                if code == SAVE and isinstance(what, int):
                    captures = (*captures[:what], position, *captures[what + 1 :])
                stack.append((first, captures))
        return following, None


def kind(char: str) -> int:
    """What assertions have to know of a character."""
    if char == "\n":
        return NEWLINE
    return WORD_CHAR if _fits(WORD, char) else OTHER


def holds(assertion: str, before: int, after: int) -> bool:
    """Whether an assertion holds between two characters of these kinds."""
    if assertion in ("start", "line_start"):
        return before == START or (assertion == "line_start" and before == NEWLINE)
    if assertion in ("end", "line_end"):
        return after == END or (assertion == "line_end" and after == NEWLINE)
    boundary = (before == WORD_CHAR) != (after == WORD_CHAR)
    return boundary == (assertion == "boundary")


def _fits(ranges: object, char: str) -> bool:
    for first, last in cast("Ranges", ranges):  # noqa: SIM110 - called for every character: no generator
        if first <= char <= last:
            return True
    return False

"""Inputs for a target, as hypothesis draws them: what leads far into a parser, changed in a few places.

Random bytes are refused at the first one mostly. So an input begins as a seed of the target or of its corpus; bytes of
it are cut out, doubled, changed, or replaced by words that the parser knows. In one that is JSON, values are replaced
by others, so that it stays JSON.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hypothesis.strategies import SearchStrategy

    from tests.fuzz.targets import Target

MOST = 1 << 16
"""Bytes of an input."""
WORDS = (
    b"\0",
    b"\n",
    b"\xff",
    b"\x1b",
    b'"',
    b"{",
    b"[" * 600,
    b"-",
    b"9" * 5000,
    b"0x" + b"f" * 5000,
    b"\xd9\xa1",
    b"\xed\xa0\x80",
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-1, 1)
    | st.sampled_from([2**31, 2**32 - 1, 2**63, 2**64, -(2**63), 10**30])
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["", "\0", "\ud800", "..", "/../a", "-x", "a" * 5000, "1", "a:b:c", "\u202e"])
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner))


class Edit(NamedTuple):
    """At `place` (0 the beginning, 1 the end) `length` bytes are replaced by `times` times themselves or `word`."""

    place: float
    length: int
    word: bytes | None
    times: int

    def apply(self, data: bytes) -> bytes:
        """The input with this change."""
        begin = int(self.place * len(data))
        end = begin + self.length
        word = data[begin:end] if self.word is None else self.word
        return (data[:begin] + word * self.times + data[end:])[:MOST]


def inputs(target: Target) -> SearchStrategy[bytes]:
    """Inputs for a target."""
    known = [*target.seeds, *(path.read_bytes() for path in sorted(target.corpus.glob("*")))]
    words = st.sampled_from([*target.tokens, *WORDS]) | st.binary(max_size=8) | st.sampled_from(known)
    edits = st.builds(
        Edit,
        st.floats(0, 1),
        st.integers(0, 40),
        st.none() | words,
        st.integers(0, 3) | st.sampled_from([100, 2000]),
    )
    edited = st.builds(_edit, st.sampled_from(known), st.lists(edits, min_size=1, max_size=6))
    trees = [tree for data in known if isinstance(tree := _json(data), dict | list) and tree]
    return edited | _changed(trees) if trees else edited


def _edit(data: bytes, edits: list[Edit]) -> bytes:
    for edit in edits:
        data = edit.apply(data)
    return data


def _changed(trees: Sequence[object]) -> SearchStrategy[bytes]:
    places = st.lists(st.tuples(st.integers(0, 1000), VALUES), min_size=1, max_size=3)
    return st.builds(_replace, st.sampled_from(trees), places)


def _replace(tree: object, changes: list[tuple[int, object]]) -> bytes:
    copied = json.loads(json.dumps(tree))
    for number, value in changes:
        places = [(holder, key) for holder in _holders(copied) for key in _keys(holder)]
        if places:
            holder, key = places[number % len(places)]
            holder[key] = value
    return json.dumps(copied).encode()


def _holders(tree: object) -> list[dict[object, object]]:
    """All objects and lists of a tree, the outermost first."""
    found = []
    waiting = [tree]
    while waiting:
        value = waiting.pop(0)
        if isinstance(value, dict | list):
            found.append(value)
            waiting += value.values() if isinstance(value, dict) else value
    return found  # type: ignore[return-value]  # lists are written to by number, as objects are by name


def _keys(holder: object) -> list[object]:
    return list(holder) if isinstance(holder, dict) else list(range(len(holder))) if isinstance(holder, list) else []


def _json(data: bytes) -> object:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None

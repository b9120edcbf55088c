"""Patterns: what they match (Python's `re` is the oracle where both read a pattern alike), and what they cost."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kata.agent.policy.regex import PatternError, Regex


def free(steps: int) -> None:
    """Pays nothing."""


def spans(pattern: str, text: str) -> tuple[int, ...] | None:
    return Regex(pattern).find(text, 0, free)


ATOMS = st.sampled_from([*"abc.-", "[ab]", "[^a]", "[a-c]", r"\d", r"\w", r"\s", r"\.", r"\b", "^", "$"])


def joined(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return (
        st.lists(inner, min_size=1, max_size=3).map("".join)
        | st.lists(inner, min_size=2, max_size=3).map(lambda parts: f"(?:{'|'.join(parts)})")
        | inner.map(lambda part: f"({part})")
    )


def repeated(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    # What can match nothing is not repeated: engines differ in what its groups are then.
    return (
        st.tuples(
            st.sampled_from(["[ab]", "(?:ab|c)", "a", "."]),
            st.sampled_from(["*", "+", "?", "{2}", "*?", "+?", "{1,2}"]),
        ).map("".join)
        | inner
    )


PATTERNS = st.recursive(repeated(ATOMS), joined, max_leaves=6)


@settings(max_examples=1500, deadline=None)
@given(PATTERNS, st.text(alphabet="abc.-1 \n", max_size=8))
def test_as_python_matches(pattern: str, text: str) -> None:
    found = re.compile(pattern.replace("$", r"\Z"), re.ASCII).search(text)
    expected = None if found is None else tuple(place for group in found.regs for place in group)
    assert spans(pattern, text) == expected
    assert Regex(pattern).matches(text, free) == (found is not None)


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("^a$", "a\n", None),
        ("(?m)^b$", "a\nb\nc", (2, 3)),
        ("a.c", "a\nc", None),
        ("(?s)a.c", "a\nc", (0, 3)),
        ("(?i)straSSE", "STRAsse", (0, 7)),
        ("(?i:a)b", "AB", None),
        ("(?i)[k-l]", "\u212a", (0, 1)),
        (r"\d", "\u0663", None),
        (r"\w", "\u00e9", None),
        ("[[:alpha:]]+", "1ab2", (1, 3)),
        ("[^[:digit:]]", "1a", (1, 2)),
        (r"[\d-]+", "1-2", (0, 3)),
        ("[]a]+", "]a", (0, 2)),
        (r"\x41\x{1F600}", "A\U0001f600", (0, 2)),
        ("(?P<name>a)(?<other>b)", "ab", (0, 2, 0, 1, 1, 2)),
        ("(|a)+", "aa", (0, 0, 0, 0)),
        ("(a|ab)(c|bcd)", "abcd", (0, 4, 0, 1, 1, 4)),
        ("a{,2}", "a{,2}", (0, 5)),
        ("x*", "", (0, 0)),
        ("$(a)", "$(a)", None),
    ],
)
def test_where_python_reads_it_otherwise(pattern: str, text: str, expected: tuple[int, ...] | None) -> None:
    assert spans(pattern, text) == expected
    assert Regex(pattern).matches(text, free) == (expected is not None)


@pytest.mark.parametrize(
    "pattern",
    "(?=a) (?!a) (?<=a) (?<!a) (a)\\1 a++ a** (?>a) \\pL \\p{Greek} \\Qa\\E (?U)a (?x)a ( a) [a [b-a] *a | ?+ \\ \\8"
    " a{1001} a{2,1} (a{1000}){1000} [[:nope:]] [a[b] [a&&b] [a--b] (?P<1>a) \\x{110000} \\xg \\u0041".replace(
        " | ", " "
    ).split(),
)
def test_what_is_refused(pattern: str) -> None:
    with pytest.raises(PatternError):
        Regex(pattern)


@given(st.text(alphabet=r"ab(|)[]^$*+?{}\d1,-:P<>i=!.", max_size=12))
def test_any_text_is_a_pattern_or_refused(pattern: str) -> None:
    try:
        found = Regex(pattern)
    except PatternError:
        return
    assert found.matches("ab1", free) == (found.find("ab1", 0, free) is not None)


@pytest.mark.parametrize(
    "pattern", ["(a+)+$", "(a|a)*$", "(a|aa)+$", "(.*)*$", "(a*)*b", "^(([a-z])+.)+[A-Z]([a-z])+$", "(x+x+)+y"]
)
def test_what_keeps_others_busy_costs_by_the_texts_length(pattern: str) -> None:
    costs = []
    for size in (1000, 2000):
        spent: list[int] = []
        found = Regex(pattern)
        found.matches("a" * size + "!", spent.append)
        found.find("a" * size + "!", 0, spent.append)
        costs.append(sum(spent))
    assert costs[1] < 2.5 * costs[0]


def test_what_is_kept_of_a_pattern_has_a_limit() -> None:
    from kata.agent.policy.regex.machine import MAX_KEPT

    found = Regex("(a|b)*a(a|b){12}c")
    text = "".join("ab"[(index * index // 7) % 2] for index in range(4000))
    assert not found.matches(text, free)
    places = sum(len(state.places) + len(state.next) for state in found._states.values())
    assert places <= 2 * MAX_KEPT
    assert found.matches(text + "a" * 13 + "c", free)

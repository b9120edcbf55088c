"""Regular expressions of policies: what is accepted never takes long, and means what it means in Python."""

from __future__ import annotations

import re

from kata.agent.policy.meter import Meter
from kata.agent.policy.regex import PatternError, Regex
from kata.agent.policy.values import EvaluationError

SEEDS = (
    b"^(a|b)*c$\0abac",
    b"[a-z]{1,3}\\d+\0abc123",
    b"(?i)x*?y\0xXy",
    b"(?:a(b)?)+|[^a]\\b\0abab",
    b"[[:alpha:]]\\pL\0a",
)
TOKENS = (b"(", b")", b"|", b"*", b"{1000}", b"(?i)", b"[^", b"\\b", b"\\x{10ffff}", b"\\Q", b"$", b"\0")
"""The pattern and the text, apart by a zero byte."""
SAME = re.compile(r"[a-c|()*?]*")
"""Patterns whose meaning is the same everywhere."""


def target(data: bytes) -> None:
    """A refusal is a PatternError."""
    pattern, _, text = data.decode("utf-8", "replace").partition("\0")
    try:
        found = Regex(pattern)
    except PatternError:
        return
    try:
        matched = found.matches(text, Meter({}, 200_000).spend)
        first = found.find(text, 0, Meter({}, 200_000).spend)
    except EvaluationError:
        return
    assert matched == (first is not None)
    if SAME.fullmatch(pattern) and len(pattern) < 12 and len(text) < 12:
        try:
            expected = re.search(pattern, text) is not None
        except re.error:
            return  # RE2 takes a few that Python does not
        assert matched == expected

"""A policy's text as tokens. Called by `parser`; knows nothing of what the tokens mean together."""

from __future__ import annotations

import re
from typing import NamedTuple

from kata.agent.policy.syntax import refused

MAX_TOKENS = 1 << 18
"""Of one text; each costs about a hundred bytes while it is parsed."""

WORDS = frozenset(
    "package import default as with not some every if in contains else true false null".split()  # noqa: SIM905 - a list of words reads better
)
"""Not names of rules or variables here. `if`, `in`, `every` and `contains` are names in old Rego without imports;
a policy that uses them so is refused. `contains` is a function still."""


class Token(NamedTuple):
    """`kind`: name, word, number, string, sign or end. `joined`: nothing is between it and the token before;
    `fresh`: the end of a line is."""

    kind: str
    value: object
    line: int
    joined: bool
    fresh: bool


_TOKEN = re.compile(
    r"""
      (?P<space>[ \t\r\n]+|\#[^\n]*)
    | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
    | (?P<number>(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?(?![A-Za-z0-9_]))
    | (?P<string>"[^"\\\n]*(?:\\.[^"\\\n]*)*")
    | (?P<raw>`[^`]*`)
    | (?P<sign>:=|==|!=|<=|>=|[-=<>+*/%&|.,:;(){}\[\]])
    """,
    re.VERBOSE,
)
# No part of it can match in two ways, so it does not backtrack.


def tokens(text: str) -> list[Token]:
    """All tokens, the last of kind `end`. Raises BadRequest for what is no token."""
    found: list[Token] = []
    line, position, joined, fresh = 1, 0, False, True
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise refused(line, f"{text[position : position + 20].splitlines()[0]!r}")
        kind, raw = str(match.lastgroup), match[0]
        position = match.end()
        if kind == "space":
            joined, fresh = False, fresh or "\n" in raw
        else:
            found.append(Token(*_token(kind, raw, line), line, joined, fresh))
            joined, fresh = True, False
            if len(found) > MAX_TOKENS:
                raise refused(line, "the policy is too long", hint=f"more than {MAX_TOKENS} words and signs")
        line += raw.count("\n")
    found.append(Token("end", "", line, False, True))
    return found


def _token(kind: str, raw: str, line: int) -> tuple[str, object]:
    if kind == "name":
        return "word" if raw in WORDS else "name", raw
    if kind == "number":
        return kind, _number(raw, line)
    if kind == "string":
        return kind, _unquote(raw, line)
    if kind == "raw":
        return "string", raw[1:-1]
    return kind, raw


def _number(raw: str, line: int) -> float:
    if len(raw) > 300:
        raise refused(line, "a number with more than 300 digits")
    if raw.isdigit():
        return int(raw)
    value = float(raw)
    if value == float("inf"):
        raise refused(line, f"the number {raw[:40]} is too large")
    return int(value) if value.is_integer() and abs(value) < 1 << 53 else value


def _unquote(raw: str, line: int) -> str:
    """A quoted string has JSON's escapes."""
    if "\\" not in raw:
        return raw[1:-1]
    import json

    try:
        text = json.loads(raw, strict=False)
        text.encode("utf-8")
    except ValueError:
        raise refused(line, f"the string {raw[:40]} has an escape that does not exist") from None
    return str(text)

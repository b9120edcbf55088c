"""The policy: which requests this agent answers, as a Rego document that gives every request a constant.

Called by `__main__` for the policy of the image, by `service` for SetPolicy and before every request. What is
understood is the subset that Kata's own plain policies are written in:

    package agent_policy
    default ExecProcessRequest := false
    ReadStreamRequest := true

A rule's name is that of the request's message. `AllowRequestsFailingPolicy := true` allows requests without a rule;
otherwise they are blocked. Everything else of Rego (bodies, imports, functions, data) is refused, by line: never
guess what a rule could have meant, since a guess would be a hole.
"""

from __future__ import annotations

import re

from kata.agent.errors import BadRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PACKAGE = "agent_policy"
FALLBACK = "AllowRequestsFailingPolicy"
LIMIT = 1 << 20
"""Bytes of a document."""

_PACKAGE = re.compile(r"package\s+(\S+)")
_RULE = re.compile(r"(default\s+)?([A-Za-z_]\w*)\s*:?=\s*(\w+)", re.ASCII)
_BOOLS = {"true": True, "false": False}


class Policy:
    """Answers by request name. Immutable: SetPolicy puts another one in its place."""

    def __init__(self, rules: Mapping[str, bool]) -> None:
        self._rules = dict(rules)

    def allows(self, request: str) -> bool:
        """Whether a request with this message name may be served."""
        found = self._rules.get(request)
        return self._rules.get(FALLBACK, False) if found is None else found


def parse(text: str) -> Policy:
    """The policy of a document. Raises BadRequest that names the line and what is not understood there."""
    if len(text.encode("utf-8", "replace")) > LIMIT:
        raise BadRequest(f"the policy is longer than {LIMIT} bytes")
    lines = _statements(text)
    number, first = next(lines, (1, ""))
    package = _PACKAGE.fullmatch(first)
    if package is None or package[1] != PACKAGE:
        raise _refused(number, first, f"`package {PACKAGE}` has to come first")
    defaults: dict[str, bool] = {}
    rules: dict[str, bool] = {}
    for number, line in lines:
        is_default, name, value = _rule(number, line)
        table = defaults if is_default else rules
        # Rego allows a complete rule to be said twice with the same value, a default only once.
        if name in table and (is_default or table[name] != value):
            raise _refused(number, line, f"{name} has a value already")
        table[name] = value
    return Policy({**defaults, **rules})


def load(path: str) -> Policy:
    """The policy in a file. Raises OSError, BadRequest."""
    from kata.linux.fds import read_text

    return parse(read_text(path))


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Number and text of every line that is more than a comment."""
    for number, line in enumerate(text.split("\n"), 1):
        # No statement that is understood has a string, so a hash always begins a comment in those.
        if stripped := line.partition("#")[0].strip():
            yield number, stripped


def _rule(number: int, line: str) -> tuple[bool, str, bool]:
    match = _RULE.fullmatch(line)
    if match is None:
        raise _refused(number, line, "only rules of the form `default NameRequest := true` are understood")
    if match[3] not in _BOOLS:
        raise _refused(number, line, f"{match[3]} is neither true nor false")
    if match[2] in ("default", "import", "package", "input", "data"):
        raise _refused(number, line, f"{match[2]} is no name of a rule")
    return bool(match[1]), match[2], _BOOLS[match[3]]


def _refused(number: int, line: str, why: str) -> BadRequest:
    return BadRequest(f"the policy's line {number} is not understood: {line[:80]!r}", hint=why)

"""The policy: which requests this agent answers, as a Rego document. Door of this room.

Called by `__main__` for the policy of the image, by `service` for SetPolicy and before every request.

A rule's name is that of the request's message, its `input` the request. `true` allows; so does an object with
`allowed: true`, which may change the policy's state too. A request without a rule, or whose rule has no value, is an
error. `AllowRequestsFailingPolicy := true`, for finding out why a policy denies, allows what is denied or has no rule.

A document that gives every request a constant is understood here, line by line, at no cost. Everything else goes to
the rest of the room, which is imported then; what is no Rego, or more of it than is understood, is refused by line
when it is set: never guess what a rule could have meant, since a guess would be a hole.
"""

from __future__ import annotations

import re
import threading
from typing import NamedTuple

from kata.agent.errors import BadRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from kata.agent.policy.decide import Rules

PACKAGE = "agent_policy"
FALLBACK = "AllowRequestsFailingPolicy"
LIMIT = 4 << 20
"""Bytes of a document."""

_PACKAGE = re.compile(rf"package\s+{PACKAGE}")
_IMPORT = re.compile(r"import\s+(?:rego\.v1|future\.keywords(?:\.(?:if|in|every|contains))?)")
_RULE = re.compile(r"(default\s+)?([A-Za-z_]\w*)\s*:?=\s*(true|false)", re.ASCII)
_NO_NAMES = frozenset(("default", "import", "package", "input", "data", "true", "false", "null", "not", "with", "as"))
_NO_NAMES |= {"if", "in", "every", "some", "contains", "else"}


class Decision(NamedTuple):
    """Whether a request may be served; `reason`: what the policy printed on its way to a denial."""

    allowed: bool
    reason: str = ""


class Policy:
    """Answers by request. Thread-safe: decisions are made one at a time, each with its change of the state.

    `rules`: answers that are constants. `otherwise` is the answer for a request without any; None is an error then.
    """

    def __init__(
        self, constants: Mapping[str, bool], rules: Rules | None = None, *, otherwise: bool | None = None
    ) -> None:
        self._constants = dict(constants)
        self._rules = rules
        self._otherwise = otherwise
        self._lock = threading.Lock()
        self.allows_failing = self._allows_failing()
        """Whether the policy says that it is only being tried out."""

    def check(self, name: str, request: object) -> Decision:
        """The decision about a request, by its message's name: a message, or what `json.loads` gives.

        Raises EvaluationError (an AgentError) where the policy has no answer, and BadRequest for a request that
        cannot be shown to it.
        """
        allowed, reason = self._answer(name, request)
        if self.allows_failing:
            return Decision(True)
        if allowed is None and self._otherwise is None:
            from kata.agent.policy.values import EvaluationError

            raise EvaluationError(f"{name}: the policy has no answer")
        return Decision(bool(self._otherwise if allowed is None else allowed), reason)

    def _answer(self, name: str, request: object) -> tuple[bool | None, str]:
        if self._rules is None or name in self._constants:
            return self._constants.get(name), ""
        with self._lock:
            return self._rules.decide(name, request)

    def _allows_failing(self) -> bool:
        from kata.errors import KataError

        try:
            return bool(self._answer(FALLBACK, {})[0])
        except KataError:
            return False


def parse(text: str) -> Policy:
    """The policy of a document. Raises BadRequest that names the line and what is not understood there."""
    if len(text.encode("utf-8", "replace")) > LIMIT:
        raise BadRequest(f"the policy is longer than {LIMIT} bytes")
    constants = _constants(text)
    if constants is not None:
        return Policy(constants)
    from kata.agent.policy.decide import Rules

    rules = Rules(text, PACKAGE)
    return Policy(rules.answers, rules)


def load(path: str) -> Policy:
    """The policy in a file. Raises OSError, BadRequest."""
    from kata.linux.fds import read_text

    return parse(read_text(path))


def _constants(text: str) -> dict[str, bool] | None:
    """The answers of a document that has nothing else; None for any other, and for one that contradicts itself."""
    defaults: dict[str, bool] = {}
    rules: dict[str, bool] = {}
    # No statement that is understood here has a string, so a hash always begins a comment in those.
    lines = [stripped for line in text.split("\n") if (stripped := line.partition("#")[0].strip(" \t\r"))]
    if not lines or not _PACKAGE.fullmatch(lines[0]):
        return None
    for line in lines[1:]:
        match = _RULE.fullmatch(line)
        if match is None or match[2] in _NO_NAMES:
            if _IMPORT.fullmatch(line) and not rules and not defaults:
                continue
            return None
        table = defaults if match[1] else rules
        # Rego allows a complete rule to be said twice with the same value, a default only once.
        if match[2] in table and (match[1] or table[match[2]] is not (match[3] == "true")):
            return None
        table[match[2]] = match[3] == "true"
    return {**defaults, **rules}

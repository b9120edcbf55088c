"""A policy with conditions, ready to decide. Made by `parse` of this room's door for what is more than constants.

The state (`data.pstate`) changes with a decision that asks for it, and with no other; the caller sees to it that one
decision is made at a time.
"""

from __future__ import annotations

from kata.agent.policy.meter import MAX_STEPS, Meter
from kata.agent.policy.parser import parse_module
from kata.agent.policy.patch import ROOT, apply
from kata.agent.policy.program import Evaluation
from kata.agent.policy.request import to_value
from kata.agent.policy.rules import compile_module
from kata.agent.policy.values import (
    UNDEFINED,
    Boolean,
    EvaluationError,
    Object,
    Value,
    lookup,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.agent.policy.regex import Regex


class Rules:
    """A compiled policy and its state."""

    def __init__(self, text: str, package: str) -> None:
        """Raises BadRequest for a text that is not understood."""
        self._package = package
        self._programs = compile_module(parse_module(text, package), package)
        found = {name: program.constant for name, program in self._programs.items()}
        self._constants = {name: value for name, value in found.items() if value is not UNDEFINED}
        self.answers = {name: value.value for name, value in found.items() if isinstance(value, Boolean)}
        """What needs no evaluation."""
        self._regexes: dict[str, Regex] = {}
        self.state: Value = Object({})

    def decide(self, name: str, request: object, steps: int = MAX_STEPS) -> tuple[bool | None, str]:
        """Whether a rule allows a request, None where it has no value; with a denial, what was printed on the way.

        Raises EvaluationError where there can be no answer; the state is as it was then.
        """
        if name in self.answers:
            return self.answers[name], ""
        if name not in self._programs:
            return None, ""
        meter = Meter(self._regexes, steps)
        try:
            value = self.value(name, request, meter)
            allowed = self._answer(name, value)
        except EvaluationError as error:
            raise EvaluationError(f"{name}: {error.what}") from None
        except RecursionError:
            raise EvaluationError(f"{name}: the decision is nested too deeply") from None
        return allowed, "" if allowed else meter.printed(self._package)

    def value(self, name: str, request: object, meter: Meter) -> Value:
        """A rule's value for a request; UNDEFINED for none. Raises EvaluationError, RecursionError."""
        program = self._programs[name]
        if program.kind == "function":
            raise EvaluationError("the rule is a function")
        data = Object({ROOT: self.state})
        return Evaluation(to_value(request), data, self._constants, meter).rule(program)

    def _answer(self, name: str, value: Value) -> bool | None:
        """A boolean, or an object that says `allowed` and how the state changes then."""
        if value is UNDEFINED:
            return None
        allowed = lookup(value, "allowed") if isinstance(value, Object) else value
        if not isinstance(allowed, Boolean):
            raise EvaluationError("the rule gives neither a boolean nor an object with `allowed`")
        ops = lookup(value, "ops")
        if allowed.value and ops is not UNDEFINED and ops is not None:
            self.state = apply(self.state, ops)
        return allowed.value

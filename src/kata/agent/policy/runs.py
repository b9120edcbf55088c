"""What compiled terms have in common when they run. Called by what `compiler` makes; nothing of syntax belongs here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kata.agent.policy.meter import Meter, cost
from kata.agent.policy.values import UNDEFINED, Array, EvaluationError, Object, Set, Value, weight

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kata.agent.policy.program import Body, Env, Matcher, Run


def put(meter: Meter, found: dict[Value, Value], key: Value, value: Value) -> None:
    """Add to an object that is being made. Raises EvaluationError when the key has another value."""
    if key in found:
        meter.spend(cost(found[key], value))
        if found[key] != value:
            raise EvaluationError("an object gets two values for one key")
    found[key] = value


def is_in(meter: Meter, wanted: Value, among: Value) -> bool:
    """Whether a value is in a collection, as one of its values."""
    if isinstance(among, Set):
        meter.spend(weight(wanted))
        return wanted in among.items
    items = among.items.values() if isinstance(among, Object) else among.items if isinstance(among, Array) else ()
    meter.spend(len(items) if isinstance(wanted, (str, int, float)) else sum(cost(wanted, item) for item in items))
    return wanted in items


def array_matcher(matchers: Sequence[Matcher]) -> Matcher:
    """What compares an array with a pattern for each element."""

    def match(env: Env, value: Value) -> bool:
        if not isinstance(value, Array) or len(value.items) != len(matchers):
            return False
        return all(inner(env, item) for inner, item in zip(matchers, value.items, strict=True))

    return match


def object_matcher(matchers: dict[Value, Matcher]) -> Matcher:
    """What compares an object, which has just these keys, with a pattern for each value."""

    def match(env: Env, value: Value) -> bool:
        if not isinstance(value, Object) or value.items.keys() != matchers.keys():
            return False
        return all(inner(env, value.items[key]) for key, inner in matchers.items())

    return match


def object_comprehension(body: Body, key: Run, head: Run) -> Run:
    """What makes an object of all solutions of a body."""

    def run(env: Env) -> Value:
        found: dict[Value, Value] = {}
        meter = env.evaluation.meter
        for _ in body.solutions(env):
            name, value = key(env), head(env)
            if name is not UNDEFINED and value is not UNDEFINED:
                meter.spend(weight(name))
                put(meter, found, name, value)
        return Object(found)

    return run

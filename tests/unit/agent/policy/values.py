"""What tests of this room share: a rule's value, as JSON."""

from __future__ import annotations

from typing import Any

from kata.agent.policy.decide import Rules
from kata.agent.policy.meter import MAX_STEPS, Meter
from kata.agent.policy.values import UNDEFINED, to_json

PACKAGE = "agent_policy"


def compiled(rules: str) -> Rules:
    """Rules that are written without the package's line, which counts as line 1."""
    return Rules(f"package {PACKAGE}\n{rules}\n", PACKAGE)


def value_of(rules: str, given: Any = None, steps: int = MAX_STEPS) -> Any:
    """The value of the rule `x`, `...` where it has none; sets are lists."""
    found = compiled(rules).value("x", given, Meter({}, steps))
    return ... if found is UNDEFINED else to_json(found)

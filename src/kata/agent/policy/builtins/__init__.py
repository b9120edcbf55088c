"""Rego's built-in functions: those that Kata's policies use, and the common ones around them.

Door: `BUILTINS`, by name. A function takes the decision's `Meter` and its arguments, which are never UNDEFINED, and
gives a value, or UNDEFINED for arguments that it does not take. What reads the clock, the network or chance is left
out on purpose: a decision follows from policy, state and request alone.
"""

from kata.agent.policy.builtins import collections, encoding, numbers, strings
from kata.agent.policy.builtins.table import Builtin

BUILTINS: dict[str, Builtin] = {**numbers.TABLE, **collections.TABLE, **strings.TABLE, **encoding.TABLE}

__all__ = ["BUILTINS", "Builtin"]

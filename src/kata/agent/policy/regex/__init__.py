"""Regular expressions that cannot be made to take forever. Door: `Regex`, and `PatternError` for what it refuses.

Python's own `re` backtracks: a pattern of a dozen signs and a text of forty characters keep it busy for years. A policy
and a request come from the host, so patterns here are matched by a machine without backtracking, as RE2 does it.
"""

from kata.agent.policy.regex.machine import Regex
from kata.agent.policy.regex.syntax import PatternError

__all__ = ["PatternError", "Regex"]

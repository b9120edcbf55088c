"""The memory agent: gives memory that the guest does not need back to its kernel, from where the host can have it.

Two parts with a thread each: `reclaim` has cold memory of containers written back or dropped, `compaction` makes whole
huge pages of what is free, as these are what a balloon reports. Made by `__main__` when `agent.mem_agent_enable` says
so; this room is imported by nobody else.
"""

from __future__ import annotations

from kata.agent.memagent.agent import MemoryAgent, for_guest

__all__ = ["MemoryAgent", "for_guest"]

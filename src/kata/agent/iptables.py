"""GetIPTables and SetIPTables: the packet filter of the pod's network, as iptables-save(8) text.

Called by `service.observe`. The guest's network namespace is the pod's. The programs are part of an image only
when its recipe asks for them; without them, or without the kernel's tables, the answer says so.
"""

from __future__ import annotations

from kata.agent import programs
from kata.agent.errors import AgentError, BadRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.linux.reaper import Reaper

LOCK_WAIT = "5"
"""Seconds that a restore waits for the lock of the tables, as upstream has it."""
TIMEOUT = 30.0
LIMIT = 3 << 20
"""Bytes of rules: an answer has to fit into one frame of 4 MiB."""


def save(reaper: Reaper, *, ipv6: bool) -> bytes:
    """The rules now. Raises Unsupported without the program, AgentError with what it said, TimedOut."""
    return _run(reaper, [programs.find("ip6tables-save" if ipv6 else "iptables-save")], b"")


def restore(reaper: Reaper, data: bytes, *, ipv6: bool) -> bytes:
    """Replace the tables that `data` names; what the program wrote. Raises as `save`, and BadRequest."""
    if len(data) > LIMIT:
        raise BadRequest(f"SetIPTables: {len(data)} bytes of rules, {LIMIT} are the limit")
    program = programs.find("ip6tables-restore" if ipv6 else "iptables-restore")
    return _run(reaper, [program, "--wait", LOCK_WAIT], data)


def _run(reaper: Reaper, argv: list[str], data: bytes) -> bytes:
    done = programs.run(reaper, argv, data, timeout=TIMEOUT, limit=LIMIT)
    if done.code:
        raise AgentError(f"{argv[0]} failed with {done.code}", detail=done.stderr)
    return done.stdout

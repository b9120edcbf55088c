"""Gives a guest what a container's plan asks for: shares, disks, copies. The only place that carries plans out.

Called by `sandbox.create_container`. Each step pushes its undoing on the caller's stack.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from kata.sandbox.errors import ConflictError

if TYPE_CHECKING:
    from contextlib import ExitStack

    from kata.sandbox.agent_client import AgentClient
    from kata.sandbox.containerplan import ContainerPlan
    from kata.sandbox.copies import Copies
    from kata.sandbox.disks import Disks
    from kata.storage.share import Share


class Ways(NamedTuple):
    """How things of the host get into one sandbox's guest."""

    agent: AgentClient
    share: Share | None
    disks: Disks
    copies: Copies


def provide(plan: ContainerPlan, ways: Ways, undo: ExitStack) -> None:
    """Carry the plan out; `undo` takes it back. Raises KataError; what was begun is then on `undo`."""
    for wanted in plan.shares:
        if ways.share is None:
            raise ConflictError("this sandbox shares no directories of the host with its guest")
        ways.share.add(wanted.name, wanted.path, readonly=wanted.readonly)
        undo.callback(ways.share.remove, wanted.name)
    for plug in plan.plugs:
        ways.disks.acquire(plug)
        undo.callback(ways.disks.release, plug.serial)
    for copy in plan.copies:
        ways.copies.send(ways.agent, copy, undo)

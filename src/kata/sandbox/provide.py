"""Gives a guest what a container's plan asks for: shares, disks, copies. The only place that carries plans out.

Called by `sandbox.create_container`. Each step pushes its undoing on the caller's stack.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kata.sandbox.errors import ConflictError

if TYPE_CHECKING:
    from contextlib import ExitStack

    from kata.sandbox.agent_client import AgentClient
    from kata.sandbox.containerplan import ContainerPlan
    from kata.sandbox.disks import Disks
    from kata.storage.virtiofs import VirtiofsShare


def provide(
    plan: ContainerPlan, agent: AgentClient, disks: Disks, share: VirtiofsShare | None, undo: ExitStack
) -> None:
    """Carry the plan out; `undo` takes it back. Raises KataError; what was begun is then on `undo`."""
    for wanted in plan.shares:
        if share is None:
            raise ConflictError("this sandbox shares no directories of the host with its guest")
        share.add(wanted.name, wanted.path, readonly=wanted.readonly)
        undo.callback(share.remove, wanted.name)
    for plug in plan.plugs:
        disks.acquire(plug)
        undo.callback(disks.release, plug.serial)
    if plan.copies:
        from kata.sandbox.copying import Copier  # for guests that share nothing

        for copy in plan.copies:
            Copier(agent, copy).run()

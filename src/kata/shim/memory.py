"""Tells of containers that run out of memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kata.errors import KataError
from kata.protocol.generated.host import events_pb2

if TYPE_CHECKING:
    from collections.abc import Callable

    from kata.sandbox.sandbox import Sandbox
    from kata.shim.events import Publisher


def watch_memory(sandbox: Sandbox, known: Callable[[str], bool], publisher: Publisher) -> None:
    """Publish the guest's events of tasks that are `known` (the guest may say anything), until the sandbox ends."""
    while True:
        try:
            container_id = sandbox.agent.oom_event()
        except KataError:
            return
        if known(container_id):
            publisher.publish(events_pb2.TaskOOM(container_id=container_id))

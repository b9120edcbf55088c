"""Tells of containers that run out of memory."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from kata.errors import KataError
from kata.protocol.generated.host import events_pb2

if TYPE_CHECKING:
    from collections.abc import Callable

    from kata.sandbox.sandbox import Sandbox
    from kata.shim.events import Publisher

BURST, PERIOD = 16, 4.0
"""As many events are heard at once, and in the long run as many in so many seconds. A guest can have any number of
them; those of an honest one wait in its agent."""


def watch_memory(sandbox: Sandbox, known: Callable[[str], bool], publisher: Publisher) -> None:
    """Publish the guest's events of tasks that are `known` (the guest may say anything), until the sandbox ends."""
    heard: deque[float] = deque(maxlen=BURST)
    while True:
        if len(heard) == BURST and heard[0] > time.monotonic() - PERIOD:
            sandbox.wait_end(PERIOD / BURST)
        try:
            container_id = sandbox.agent.oom_event()
        except KataError:
            return
        if known(container_id):
            publisher.publish(events_pb2.TaskOOM(container_id=container_id))
        heard.append(time.monotonic())

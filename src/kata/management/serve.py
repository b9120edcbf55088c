"""The door of this room for processes that hold a sandbox: `serve` puts it all together at the sandbox's socket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from kata import paths
from kata.management.metrics import Measured, MeasuredAgent, Metrics
from kata.management.routes import GuestAgent, Managed, Routes
from kata.management.server import ManagementServer

if TYPE_CHECKING:
    from kata.log import Logger
    from kata.management.durations import Durations


class ServedAgent(GuestAgent, MeasuredAgent, Protocol):
    """Its agent."""


class ServedSandbox(Managed, Measured, Protocol):
    """A sandbox that can be measured and managed."""

    @property
    def agent(self) -> ServedAgent:
        """Its agent. Raises ConflictError when the sandbox has ended."""


def serve(
    sandbox: ServedSandbox, sandbox_id: str, rpcs: Durations, agent_rpcs: Durations, log: Logger
) -> ManagementServer:
    """Answer at the sandbox's socket from now on, until `close`. Raises OSError when that cannot be."""
    metrics = Metrics(sandbox, rpcs, agent_rpcs)
    server = ManagementServer(str(paths.monitor_socket(sandbox_id)), Routes(sandbox, metrics.render).answer, log)
    server.start()
    return server

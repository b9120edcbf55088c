"""The agent's API: one method a request, which unpacks the message, calls one room, and packs the reply.

Called by the ttrpc server, each request in a thread of its own. Each file holds the requests about one thing;
`AgentService` is all of them. Errors become RPC codes in `to_status` and nowhere else. No state and no decisions
here. Requests that are not here are answered UNIMPLEMENTED by the server.
"""

from __future__ import annotations

from kata.agent.service.base import to_status
from kata.agent.service.containers import Containers
from kata.agent.service.guard import guard
from kata.agent.service.guest import Guest
from kata.agent.service.health import Health
from kata.agent.service.network import Network
from kata.agent.service.observe import Observe
from kata.agent.service.processes import Processes
from kata.agent.service.sandboxes import Sandboxes
from kata.agent.service.storages import Storages

__all__ = ["AgentService", "Health", "guard", "to_status"]


class AgentService(Sandboxes, Containers, Processes, Guest, Network, Storages, Observe):
    """grpc.AgentService."""

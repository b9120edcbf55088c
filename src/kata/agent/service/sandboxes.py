"""Requests about the sandbox itself.

One part of `AgentService`. Each method unpacks its message, calls one room, packs the reply: no decisions here.
"""

from __future__ import annotations

from kata.agent.service.base import Base
from kata.protocol.generated import agent_pb2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from google.protobuf.message import Message

    from kata.protocol.server import Call


class Sandboxes(Base):
    """The sandbox: made, ended, out of memory."""

    def create_sandbox(self, request: agent_pb2.CreateSandboxRequest, call: Call) -> Message:
        """Set up what containers share."""
        self._sandbox.create(request)
        return self._done()

    def destroy_sandbox(self, request: agent_pb2.DestroySandboxRequest, call: Call) -> Message:
        """Remove everything; afterwards the agent ends, and as PID 1 the VM with it."""
        self._sandbox.destroy()
        return self._done()

    def get_oom_event(self, request: agent_pb2.GetOOMEventRequest, call: Call) -> agent_pb2.OOMEvent:
        """Block until something is killed for lack of memory."""
        return agent_pb2.OOMEvent(container_id=self._sandbox.oom.wait(call.cancelled.is_set))

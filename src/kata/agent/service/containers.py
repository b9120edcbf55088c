"""Requests about whole containers.

One part of `AgentService`. Each method unpacks its message, calls one room, packs the reply: no decisions here.
"""

from __future__ import annotations

from kata.agent import stats
from kata.agent.service.base import Base
from kata.protocol.generated import agent_pb2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from google.protobuf.message import Message

    from kata.protocol.server import Call


class Containers(Base):
    """Made, started, paused, limited, measured, removed."""

    def create_container(self, request: agent_pb2.CreateContainerRequest, call: Call) -> Message:
        """Make a container that waits for StartContainer."""
        self._sandbox.create_container(request)
        return self._done()

    def start_container(self, request: agent_pb2.StartContainerRequest, call: Call) -> Message:
        """Let its command run."""
        self._container(request).start()
        return self._done()

    def remove_container(self, request: agent_pb2.RemoveContainerRequest, call: Call) -> Message:
        """Undo it; `timeout` in seconds, 0 is no limit."""
        self._sandbox.remove_container(request.container_id, request.timeout or None)
        return self._done()

    def pause_container(self, request: agent_pb2.PauseContainerRequest, call: Call) -> Message:
        """Freeze it."""
        self._container(request).pause()
        return self._done()

    def resume_container(self, request: agent_pb2.ResumeContainerRequest, call: Call) -> Message:
        """Thaw it."""
        self._container(request).resume()
        return self._done()

    def update_container(self, request: agent_pb2.UpdateContainerRequest, call: Call) -> Message:
        """Change its limits."""
        from kata.oci.convert import resources_from_proto

        self._container(request).update(resources_from_proto(request.resources))
        return self._done()

    def stats_container(self, request: agent_pb2.StatsContainerRequest, call: Call) -> agent_pb2.StatsContainerResponse:
        """Its statistics."""
        container = self._container(request)
        if container.legacy:
            from kata.agent import stats1

            return stats1.collect(container.legacy)
        return stats.collect(container.cgroup)

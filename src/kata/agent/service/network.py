"""Requests about the network. Its room is imported when the first of them comes.

One part of `AgentService`. Each method unpacks its message, calls one room, packs the reply: no decisions here.
"""

from __future__ import annotations

from kata.agent.service.base import Base
from kata.protocol.generated import agent_pb2, types_pb2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from google.protobuf.message import Message

    from kata.protocol.server import Call


class Network(Base):
    """Interfaces, routes, neighbours."""

    def update_interface(self, request: agent_pb2.UpdateInterfaceRequest, call: Call) -> types_pb2.Interface:
        """Set up one interface."""
        from kata.agent import interfaces

        return interfaces.update_interface(request.interface, self._sandbox.hotplug)

    def list_interfaces(self, request: agent_pb2.ListInterfacesRequest, call: Call) -> agent_pb2.Interfaces:
        """All interfaces."""
        from kata.agent import interfaces

        return agent_pb2.Interfaces(Interfaces=interfaces.list_interfaces())

    def update_routes(self, request: agent_pb2.UpdateRoutesRequest, call: Call) -> agent_pb2.Routes:
        """Add routes; the answer is the whole table."""
        from kata.agent import interfaces

        return agent_pb2.Routes(Routes=interfaces.update_routes(request.routes.Routes))

    def list_routes(self, request: agent_pb2.ListRoutesRequest, call: Call) -> agent_pb2.Routes:
        """The main table."""
        from kata.agent import interfaces

        return agent_pb2.Routes(Routes=interfaces.list_routes())

    def add_arp_neighbors(self, request: agent_pb2.AddARPNeighborsRequest, call: Call) -> Message:
        """Add neighbours."""
        from kata.agent import interfaces

        interfaces.add_neighbours(request.neighbors.ARPNeighbors)
        return self._done()

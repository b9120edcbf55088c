"""A sandbox's place in its pod's network namespace: joined before the VM boots, told to the guest once it answers.

Called by `sandbox`, step by step; what is joined is undone by the stack that it was pushed on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kata.hypervisor.machine import TapNic
from kata.network import to_guest
from kata.network.attachment import Attachment, Settings, attach
from kata.network.scan import scan
from kata.protocol.generated import agent_pb2
from kata.sandbox.errors import ConfigError

if TYPE_CHECKING:
    from contextlib import ExitStack

    from kata.network.endpoint import Endpoint
    from kata.sandbox.agent_client import AgentClient
    from kata.sandbox.config import PodNetworkConfig


class PodNetwork:
    """The interfaces of one pod, in a VM."""

    def __init__(self, config: PodNetworkConfig) -> None:
        self._config = config
        self._attachments: list[Attachment] = []

    def join(self, queues: int, undo: ExitStack) -> tuple[TapNic, ...]:
        """Join every interface of the namespace to a tap; the NICs that the VM has to have. Raises KataError."""
        config = self._config
        settings = Settings(model=config.model, queues=queues, rx_rate=config.rx_rate, tx_rate=config.tx_rate)
        for endpoint in scan(config.netns):
            _check(endpoint)
            self._attachments.append(undo.enter_context(attach(config.netns, endpoint, settings)))
        return tuple(_nic(entry) for entry in self._attachments if entry.fds)

    def hand_over(self) -> None:
        """The VM has its own descriptors of the taps: from now on they live as long as it does."""
        for attachment in self._attachments:
            attachment.hand_over()

    def tell(self, agent: AgentClient) -> None:
        """Have the guest name, address and route its interfaces as the pod has them. Raises SandboxError."""
        endpoints = [attachment.endpoint for attachment in self._attachments if self._config.model != "none"]
        for endpoint in endpoints:
            agent.update_interface(agent_pb2.UpdateInterfaceRequest(interface=to_guest.interface(endpoint)))
        if routes := to_guest.routes(endpoints):
            agent.update_routes(agent_pb2.UpdateRoutesRequest(routes=agent_pb2.Routes(Routes=routes)))
        if neighbours := to_guest.neighbours(endpoints):
            agent.add_neighbours(agent_pb2.ARPNeighbors(ARPNeighbors=neighbours))


def _check(endpoint: Endpoint) -> None:
    if endpoint.pci_address:
        raise ConfigError(
            f"the interface {endpoint.name!r} is the PCI device {endpoint.pci_address}, which no guest can have yet",
            hint="use a network whose interfaces are veth, macvlan, ipvlan, macvtap or tap",
        )


def _nic(attachment: Attachment) -> TapNic:
    return TapNic(attachment.endpoint.mac, attachment.fds, attachment.endpoint.mtu)

"""A sandbox's place in its pod's network namespace: joined before the VM boots, told to the guest once it answers.

Called by `sandbox`, step by step; what is joined is undone by the stack that it was pushed on. What comes to the
namespace later is `latenetwork`'s business.
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

    from kata.hypervisor.machine import Machine
    from kata.log import Logger
    from kata.network.endpoint import Endpoint
    from kata.sandbox.agent_client import AgentClient
    from kata.sandbox.config import PodNetworkConfig
    from kata.sandbox.latenetwork import LateNetwork


class PodNetwork:
    """The interfaces of one pod, in a VM of `vcpus` CPUs."""

    def __init__(self, config: PodNetworkConfig, vcpus: int) -> None:
        self._config = config
        self._queues = config.queues or vcpus
        self._joined: list[tuple[Endpoint, Attachment]] = []
        self._late: LateNetwork | None = None

    def join(self, undo: ExitStack) -> tuple[TapNic, ...]:
        """Join every interface of the namespace to a tap; the NICs that the VM has to have. Raises KataError."""
        undo.callback(self._close_late)  # by then the machine is gone
        nics = []
        for endpoint in scan(self._config.netns):
            attachment, nic = self._attach(endpoint)
            undo.enter_context(attachment)
            self._joined.append((endpoint, attachment))
            nics += [] if nic is None else [nic]
        return tuple(nics)

    def enter(self, machine: Machine, agent: AgentClient, log: Logger, undo: ExitStack) -> None:
        """Once the guest answers: let it have its interfaces, and from then on what comes to the namespace and goes.

        Raises SandboxError, NetworkError.
        """
        for _, attachment in self._joined:
            attachment.hand_over()  # the VM has its own descriptors: now the taps live as long as it does
        if self._config.model == "none":
            return
        self._tell(agent)
        from kata.sandbox.latenetwork import LateNetwork  # the machine boots first, then come imports

        self._late = LateNetwork(self._config.netns, self._joined, self._attach, machine, agent, log)
        undo.callback(self._late.stop)

    def _tell(self, agent: AgentClient) -> None:
        """Have the guest name, address and route its interfaces as the pod has them."""
        endpoints = [attachment.endpoint for _, attachment in self._joined]
        for endpoint in endpoints:
            agent.update_interface(agent_pb2.UpdateInterfaceRequest(interface=to_guest.interface(endpoint)))
        if routes := to_guest.routes(endpoints):
            agent.update_routes(agent_pb2.UpdateRoutesRequest(routes=agent_pb2.Routes(Routes=routes)))
        if neighbours := to_guest.neighbours(endpoints):
            agent.add_neighbours(agent_pb2.ARPNeighbors(ARPNeighbors=neighbours))

    def catch_up(self) -> bool:
        """Wait for what is just coming to the namespace, not for what may never come. Whether it came in time."""
        return self._late is None or self._late.catch_up()

    def _attach(self, endpoint: Endpoint) -> tuple[Attachment, TapNic | None]:
        _check(endpoint)
        config = self._config
        settings = Settings(model=config.model, queues=self._queues, rx_rate=config.rx_rate, tx_rate=config.tx_rate)
        attachment = attach(config.netns, endpoint, settings)
        if not attachment.fds:
            return attachment, None
        joined = attachment.endpoint
        return attachment, TapNic(joined.mac, attachment.fds, joined.mtu, vhost=config.vhost)

    def _close_late(self) -> None:
        if self._late is not None:
            self._late.close()


def _check(endpoint: Endpoint) -> None:
    if endpoint.pci_address:
        raise ConfigError(
            f"the interface {endpoint.name!r} is the PCI device {endpoint.pci_address}, which no guest can have yet",
            hint="use a network whose interfaces are veth, macvlan, ipvlan, macvtap or tap",
        )

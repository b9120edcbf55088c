"""A sandbox's place in its pod's network namespace: joined before the VM boots, told to the guest once it answers.

Called by `sandbox`, step by step; what is joined is undone by the stack that it was pushed on. What comes to the
namespace later is `latenetwork`'s business.
"""

from __future__ import annotations

import importlib
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from kata.hypervisor.machine import HostDevice, TapNic
from kata.protocol.generated import agent_pb2
from kata.sandbox.errors import ConfigError

if TYPE_CHECKING:
    from contextlib import ExitStack

    from kata.hypervisor.machine import Machine, MachineSpec
    from kata.log import Logger
    from kata.network.attachment import Attachment
    from kata.network.endpoint import Endpoint
    from kata.sandbox.agent_client import AgentClient
    from kata.sandbox.config import PodNetworkConfig
    from kata.sandbox.latenetwork import LateNetwork


NOTE = "host-devices"
"""A file in the folder of a VM."""


class PodNetwork:
    """The interfaces of one pod, in a VM of `vcpus` CPUs whose own folder is `directory`."""

    def __init__(self, config: PodNetworkConfig, vcpus: int, directory: str) -> None:
        self._config = config
        self._directory = directory
        self._queues = config.queues or vcpus
        self._joined: list[tuple[Endpoint, Attachment]] = []
        self._late: LateNetwork | None = None

    def join(self, undo: ExitStack) -> tuple[TapNic, ...]:
        """Join every interface of the namespace to a tap; the NICs that the VM has to have. Raises KataError."""
        undo.callback(self._close_late)  # by then the machine is gone
        if not self._config.netns:
            self._make_namespace(undo)
            return ()
        from kata.network.scan import scan

        nics = []
        endpoints = scan(self._config.netns)
        note_devices(self._directory, [entry.pci_address for entry in endpoints if entry.pci_address], undo)
        for endpoint in endpoints:
            attachment, nic = self._attach(endpoint)
            undo.enter_context(attachment)
            self._joined.append((endpoint, attachment))
            nics += [] if nic is None else [nic]
        return tuple(nics)

    def place(self, spec: MachineSpec) -> MachineSpec:
        """The machine in the namespace, with the PCI devices that were there."""
        devices = tuple(HostDevice(found.pci_address) for found, _ in self._joined if found.pci_address)
        return replace(spec, netns=self._config.netns, host_devices=devices)

    def enter(self, machine: Machine, agent: AgentClient, log: Logger, undo: ExitStack) -> None:
        """Once the guest answers: let it have its interfaces, and from then on what comes to the namespace and goes.

        Raises SandboxError, NetworkError.
        """
        for _, attachment in self._joined:
            attachment.hand_over()  # the VM has its own descriptors: now the taps live as long as it does
        if self._config.model == "none":
            return
        self._tell(machine, agent)
        from kata.sandbox.latenetwork import LateNetwork

        self._late = LateNetwork(self._config.netns, self._joined, self._attach_late, machine, agent, log)
        undo.callback(self._late.stop)

    def _tell(self, machine: Machine, agent: AgentClient) -> None:
        """Have the guest name, address and route its interfaces as the pod has them."""
        if not self._joined:
            return
        from kata.network import to_guest

        endpoints = [attachment.endpoint for _, attachment in self._joined]
        cards = 0
        for endpoint in endpoints:
            interface = to_guest.interface(endpoint)
            if endpoint.pci_address:
                interface.devicePath = machine.host_device_path(endpoint.pci_address)
            elif machine.spec.saved is not None:
                interface.devicePath = machine.nic_path(cards)  # it has the address that its template had
                cards += 1
            agent.update_interface(agent_pb2.UpdateInterfaceRequest(interface=interface))
        if routes := to_guest.routes(endpoints):
            agent.update_routes(agent_pb2.UpdateRoutesRequest(routes=agent_pb2.Routes(Routes=routes)))
        if neighbours := to_guest.neighbours(endpoints):
            agent.add_neighbours(agent_pb2.ARPNeighbors(ARPNeighbors=neighbours))

    def catch_up(self) -> bool:
        """Wait for what is just coming to the namespace, not for what may never come. Whether it came in time."""
        return self._late is None or self._late.catch_up()

    def _make_namespace(self, undo: ExitStack) -> None:
        """An empty one, in which there is nothing to be done before the boot. What is needed later loads meanwhile."""
        from kata.network.fresh import make_namespace

        fd = make_namespace()
        undo.callback(os.close, fd)
        self._config = replace(self._config, netns=f"/proc/{os.getpid()}/fd/{fd}")
        load = threading.Thread(target=importlib.import_module, args=("kata.sandbox.latenetwork",), daemon=True)
        load.start()

    def _attach_late(self, endpoint: Endpoint) -> tuple[Attachment, TapNic | None]:
        if endpoint.pci_address:
            raise ConfigError(
                f"the interface {endpoint.name!r} is the PCI device {endpoint.pci_address}, which came too late",
                hint="such a network has to be there before its pod",
            )
        return self._attach(endpoint)

    def _attach(self, endpoint: Endpoint) -> tuple[Attachment, TapNic | None]:
        from kata.network.attachment import Settings, attach

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


def note_devices(directory: str, addresses: list[str], undo: ExitStack) -> None:
    """Write down which PCI devices are about to be taken from the host, for `noted_devices`."""
    if addresses:
        note = Path(directory, NOTE)
        note.write_text("\n".join(addresses))
        undo.callback(note.unlink, missing_ok=True)


def noted_devices(directory: str) -> list[str]:
    """The PCI devices that a sandbox, which is gone, has taken from the host."""
    try:
        return Path(directory, NOTE).read_text().split()
    except FileNotFoundError:
        return []

"""The network cards of a machine and what is behind them. Pure, as `devices` is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kata.hypervisor.machine import MachineSpec, PublishedPort, TapNic, UserNetwork
from kata.hypervisor.qemu.devices import NET_SLOT, Device, virtio

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_NICS = 8
"""All NICs are functions of one slot."""


def network_back_end(network: UserNetwork) -> Device:
    """QEMU's own user-mode network, with the published ports."""
    forwards = [{"str": _forward(port)} for port in network.ports]
    return {"type": "user", "id": "net", "hostfwd": forwards} if forwards else {"type": "user", "id": "net"}


def no_network(network: UserNetwork) -> Device:
    """A NIC's back end that leads nowhere, for a machine that is to be saved.

    The user-mode network would be saved with it, and no other back end could take over then.
    """
    return {"type": "hubport", "id": "net", "hubid": 0}


def network_card(spec: MachineSpec, network: UserNetwork) -> Device:
    """virtio-net in front of `net`. No boot ROM: nothing boots from the network, and it costs start time."""
    return _nic(spec, 0, netdev="net", mac=network.mac.lower())


def all_nics(spec: MachineSpec) -> int:
    """How many NICs the machine has."""
    return len(spec.nics) + (spec.network is not None)


def nic_fds(spec: MachineSpec) -> tuple[int, ...]:
    """The descriptors of taps that QEMU has to inherit."""
    return tuple(fd for nic in spec.nics for fd in nic.fds)


def tap_back_end(index: int, nic: TapNic, vhost_fds: tuple[int, ...]) -> Device:
    """A tap that QEMU gets as descriptors; `vhost_fds` has as many, or none."""
    tap: Device = {"type": "tap", "id": f"tap{index}", "fds": ":".join(map(str, nic.fds)), "vhost": bool(vhost_fds)}
    return {**tap, "vhostfds": ":".join(map(str, vhost_fds))} if vhost_fds else tap


def tap_card(spec: MachineSpec, index: int, nic: TapNic) -> Device:
    """virtio-net in front of `tap<index>`."""
    pci = spec.machine_type != "microvm"
    return _nic(spec, index + (spec.network is not None), netdev=f"tap{index}", **_tap_properties(nic, pci=pci))


def plugged_tap(name: str, fds: Sequence[str], vhost_fds: Sequence[str]) -> Device:
    """A tap that comes while the guest runs, by the names of the descriptors that QEMU was sent (getfd)."""
    tap: Device = {"type": "tap", "id": name, "fds": ":".join(fds), "vhost": bool(vhost_fds)}
    return {**tap, "vhostfds": ":".join(vhost_fds)} if vhost_fds else tap


def plugged_card(name: str, nic: TapNic) -> Device:
    """virtio-net in front of the tap `name`, which comes while the guest runs; its place is the caller's to add."""
    card: Device = {"driver": "virtio-net-pci", "disable-legacy": "on", "romfile": "", "netdev": name}
    return {**card, **_tap_properties(nic, pci=True)}


def _tap_properties(nic: TapNic, *, pci: bool) -> Device:
    """More than one queue pair takes an interrupt for each direction of each."""
    properties: Device = {"mac": nic.mac.lower()}
    if nic.mtu:
        properties["host_mtu"] = nic.mtu
    if len(nic.fds) > 1:
        properties["mq"] = True
        if pci:
            properties["vectors"] = 2 * len(nic.fds) + 2
    return properties


def nic_path(spec: MachineSpec, index: int) -> str:
    """The PCI path of a NIC of `spec.nics`, as the agent reads it: the slot, and its function."""
    return f"{NET_SLOT:02x}.{index + (spec.network is not None)}"


def _nic(spec: MachineSpec, function: int, **properties: object) -> Device:
    if spec.machine_type == "microvm":
        return virtio(spec, "virtio-net", NET_SLOT, **properties)
    place = {"addr": f"{NET_SLOT:x}.{function}"} if function else {}
    several = {"multifunction": True} if all_nics(spec) > 1 else {}
    return {**virtio(spec, "virtio-net", NET_SLOT, **properties, romfile=""), **place, **several}


def _forward(port: PublishedPort) -> str:
    return f"{port.protocol}:{port.host_address}:{port.host_port}-:{port.guest_port}"

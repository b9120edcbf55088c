"""The devices of a machine: which there are, where each sits, and what QEMU calls them. Pure, no I/O.

On q35 every device has a fixed slot of the root bus, counted within its kind, so that a disk's PCI path does
not depend on what else the machine has. microvm has no PCI: its devices are virtio-mmio, which QEMU announces
on the kernel command line, so its guest kernel needs CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES (ours has it, Debian's
does not; and with ACPI instead, Debian's stops under TCG while it looks for a timer).
"""

from __future__ import annotations

import msgspec

from kata.hypervisor.machine import Disk, MachineSpec, PublishedPort, UserNetwork

MAX_PORTS = 4
"""Ports of the virtio-serial controller; number 0 is kept for a console (drivers/char/virtio_console.c)."""
IMAGE_SERIAL = "kata-image"

SERIAL_SLOT, RNG_SLOT, NET_SLOT, VSOCK_SLOT = 0x01, 0x02, 0x03, 0x1C
FIRST_DISK_SLOT, MAX_DISKS = 0x04, 20
FIRST_SHARE_SLOT, MAX_SHARES = 0x18, 4

Device = dict[str, object]


class Port(msgspec.Struct, frozen=True):
    """A stream between the host and the guest's agent.

    `name` is that of its virtio-serial port and `number` its place there, `vsock` its port where the guest has
    vsock. `stream` is the name of its character device, and of its socket in the VM's directory.
    """

    stream: str
    name: str
    number: int
    vsock: int


AGENT = Port("agent", "agent.channel.0", 1, 1024)
DEBUG = Port("debug", "agent.debug.0", 2, 1026)
LOG = Port("log", "agent.log.0", 3, 1025)


class VsockEndpoint(msgspec.Struct, frozen=True):
    """A guest CID and the descriptor of /dev/vhost-vsock that holds it."""

    cid: int
    fd: int


def all_disks(spec: MachineSpec) -> tuple[Disk, ...]:
    """The disks as the guest sees them: the guest image, when there is one, before `spec.disks`."""
    image = () if spec.image is None else (Disk(path=spec.image, serial=IMAGE_SERIAL),)
    return (*image, *spec.disks)


def disk_address(spec: MachineSpec, serial: str) -> tuple[str, str]:
    """The agent's storage driver and source of the disk with this `serial`. KeyError when there is none."""
    for index, disk in enumerate(all_disks(spec)):
        if disk.serial == serial:
            if spec.machine_type == "microvm":
                return "mmioblk", f"/dev/vd{chr(ord('a') + index)}"
            return "blk", f"{FIRST_DISK_SLOT + index:02x}"
    raise KeyError(serial)


def ports(spec: MachineSpec) -> tuple[Port, ...]:
    """The streams of the machine. The agent's comes last: when the guest sees its name, it has seen the others'."""
    return (*((DEBUG,) if spec.debug_console else ()), *((LOG,) if spec.agent_log else ()), AGENT)


def serial_ports(spec: MachineSpec) -> list[Device]:
    """A virtio-serial controller and its ports, each of which the guest finds by its name."""
    controller = _virtio(spec, "virtio-serial", SERIAL_SLOT, id="serial", max_ports=MAX_PORTS)
    return [controller, *(_serial_port(port) for port in ports(spec))]


def _serial_port(port: Port) -> Device:
    place = {"driver": "virtserialport", "bus": "serial.0", "nr": port.number}
    return {**place, "chardev": port.stream, "name": port.name}


def vsock(spec: MachineSpec, endpoint: VsockEndpoint) -> Device:
    """A vhost-vsock device with a CID that the host has reserved already."""
    return _virtio(spec, "vhost-vsock", VSOCK_SLOT, **{"guest-cid": endpoint.cid, "vhostfd": str(endpoint.fd)})


def random_source(spec: MachineSpec) -> Device:
    """virtio-rng fed by the object `rng`."""
    return _virtio(spec, "virtio-rng", RNG_SLOT, rng="rng")


def disk_node(index: int, disk: Disk, fdset: int) -> Device:
    """The block node of a disk: a raw file that QEMU gets as a descriptor, never by its path.

    The descriptor of a read-only disk is opened O_RDONLY, so the host's kernel refuses writes too.
    """
    file = {
        "driver": "file",
        "filename": f"/dev/fdset/{fdset}",
        "read-only": disk.readonly,
        "discard": "ignore" if disk.readonly else "unmap",
    }
    return {
        "driver": "raw",
        "node-name": f"disk{index}",
        "read-only": disk.readonly,
        "discard": file["discard"],
        "file": file,
    }


def disk_device(spec: MachineSpec, index: int, disk: Disk) -> Device:
    """The virtio-blk device in front of the node of the same `index`."""
    return _virtio(spec, "virtio-blk", FIRST_DISK_SLOT + index, drive=f"disk{index}", serial=disk.serial)


def share(spec: MachineSpec, index: int, tag: str) -> Device:
    """A virtio-fs device whose daemon is at the chardev `fs<index>`."""
    name = "vhost-user-fs"
    slot = FIRST_SHARE_SLOT + index
    if spec.machine_type == "microvm":
        return {"driver": f"{name}-device", "chardev": f"fs{index}", "tag": tag}
    return {"driver": f"{name}-pci", "bus": "pcie.0", "addr": f"{slot:x}", "chardev": f"fs{index}", "tag": tag}


def network_back_end(network: UserNetwork) -> Device:
    """QEMU's own user-mode network, with the published ports."""
    forwards = [{"str": _forward(port)} for port in network.ports]
    return {"type": "user", "id": "net", "hostfwd": forwards} if forwards else {"type": "user", "id": "net"}


def network_card(spec: MachineSpec, network: UserNetwork) -> Device:
    """virtio-net in front of `net`. No boot ROM: nothing boots from the network, and it costs start time."""
    rom = {} if spec.machine_type == "microvm" else {"romfile": ""}
    return _virtio(spec, "virtio-net", NET_SLOT, netdev="net", mac=network.mac.lower(), **rom)


def _forward(port: PublishedPort) -> str:
    return f"{port.protocol}:{port.host_address}:{port.host_port}-:{port.guest_port}"


def _virtio(spec: MachineSpec, name: str, slot: int, **properties: object) -> Device:
    if spec.machine_type == "microvm":
        return {"driver": f"{name}-device", **properties}
    # VIRTIO 1 only: the legacy interface is code that no guest of ours needs.
    place = {"bus": "pcie.0", "addr": f"{slot:x}", "disable-legacy": "on"}
    return {"driver": f"{name}-pci", **place, **properties}

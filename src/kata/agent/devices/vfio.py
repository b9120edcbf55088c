"""Device types "vfio-pci" and "vfio-pci-gk": PCI functions passed through from the host.

Each option is `<host address>=<guest PCI path>`, one a function of the host's IOMMU group. For "vfio-pci" the
container gets the guest's group to drive the functions itself; for "vfio-pci-gk" the guest's kernel drives them, the
spec keeps its devices, and only PCI addresses and RDMA nodes are of interest.
Called through the registry. Never look at a container's specification here.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from kata.agent.devices.binding import bind_to_vfio, iommu_group
from kata.agent.devices.context import read_node
from kata.agent.devices.errors import DeviceError, InvalidDevice
from kata.agent.edits import AddedNode, Edits
from kata.agent.updates import SpecUpdate
from kata.linux.pci import PciAddress, PciError, parse_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from kata.agent.devices.context import DeviceContext
    from kata.protocol.generated import agent_pb2

# type1 is what user space drives VFIO with; the kernel would ask modprobe for it, which a guest need not have.
DRIVERS = ("vfio-pci", "vfio_iommu_type1")
RDMA_CLASSES = ("infiniband_verbs", "infiniband_mad", "infiniband_cm")
RDMA_SHARED = "rdma_cm"
"""The connection manager, which belongs to no adapter."""


class _Function(NamedTuple):
    """A PCI function that came: its address on both sides, and its folder below sysfs."""

    host: PciAddress
    guest: PciAddress
    folder: str


def handle(device: agent_pb2.Device, context: DeviceContext) -> SpecUpdate:
    """Bind all functions to vfio-pci and give their group. Raises DeviceError, InvalidDevice, Unsupported."""
    functions = _wait_for_all(device.options, context)
    if not functions:
        raise InvalidDevice(f"the VFIO device {device.id!r} names no PCI device, so it has no group")
    context.hotplug.load_drivers(DRIVERS)
    for function in functions:
        bind_to_vfio(function.guest, context.hotplug.sysfs)
    group = _common_group([function.guest for function in functions], context.hotplug.sysfs)
    node = context.hotplug.find_vfio_group(group)
    # The container finds the group in sysfs, which has the guest's number: so the path changes with it.
    return SpecUpdate(device.container_path, read_node(node), f"/dev/vfio/{group}", _pairs(functions))


def handle_guest_kernel(device: agent_pb2.Device, context: DeviceContext) -> SpecUpdate:
    """Wait for all functions, leaving them to the guest's drivers. Raises DeviceError, InvalidDevice."""
    functions = _wait_for_all(device.options, context)
    nodes = _rdma_nodes(functions, context)
    return SpecUpdate(device.container_path, None, pci=_pairs(functions), edits=Edits(nodes=nodes))


def parse_option(option: str) -> tuple[PciAddress, str]:
    """Host address and guest PCI path, "" for a path that the host did not know. Raises InvalidDevice."""
    parts = option.split("=")
    if len(parts) != 2:
        raise InvalidDevice(f"malformed VFIO option {option!r}: <host PCI address>=<guest PCI path> is wanted")
    try:
        return parse_address(parts[0]), parts[1]
    except PciError as error:
        raise InvalidDevice(f"malformed VFIO option {option!r}: {error}") from error


def _wait_for_all(options: Iterable[str], context: DeviceContext) -> list[_Function]:
    """The functions, once they are all there. All options are checked before any is waited for."""
    functions = []
    for host, path in [parse_option(option) for option in options]:
        if not path:  # behind a NUMA expander an older host cannot tell; the device is there from the start
            if context.log:
                context.log.warn("no guest PCI path for a VFIO device", host=str(host))
            continue
        folder = context.hotplug.find_pci_function(path)
        functions.append(_Function(host, parse_address(os.path.basename(folder)), folder))
    return functions


def _pairs(functions: Iterable[_Function]) -> tuple[tuple[str, str], ...]:
    return tuple((str(function.host), str(function.guest)) for function in functions)


def _common_group(addresses: list[PciAddress], sysfs: str) -> int:
    groups: dict[int, PciAddress] = {}
    for address in addresses:
        group = iommu_group(address, sysfs)
        if group is None:
            raise DeviceError(
                f"the PCI device {address} has no IOMMU group in the guest",
                hint="The VM needs an IOMMU (enable_iommu), or the device the mode guest-kernel.",
            )
        groups[group] = address
    if len(groups) > 1:
        found = ", ".join(f"{address} in {group}" for group, address in sorted(groups.items()))
        raise DeviceError(f"the devices of one VFIO group are in different groups in the guest: {found}")
    return next(iter(groups))


def _rdma_nodes(functions: Iterable[_Function], context: DeviceContext) -> tuple[AddedNode, ...]:
    """The RDMA nodes of these adapters, and the shared one; none of other containers' adapters."""
    sysfs, dev = context.hotplug.sysfs, context.hotplug.dev
    names = [
        name for function in functions for kind in RDMA_CLASSES for name in _entries(f"{sysfs}{function.folder}/{kind}")
    ]
    if names and os.path.exists(f"{dev}/infiniband/{RDMA_SHARED}"):
        names.append(RDMA_SHARED)
    found = [(name, f"{dev}/infiniband/{name}") for name in sorted(set(names))]
    return tuple(AddedNode(f"/dev/infiniband/{name}", read_node(node)) for name, node in found if os.path.exists(node))


def _entries(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []

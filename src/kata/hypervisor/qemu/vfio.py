"""What QEMU needs of the host to drive PCI devices of it: its user may open their groups, and its memory may be locked.

Called by `machine` around a start; whoever made the spec has bound the devices to vfio-pci. Source: the kernel's
Documentation/driver-api/vfio.rst.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

from kata.hypervisor.errors import HypervisorError
from kata.hypervisor.qemu import devices

if TYPE_CHECKING:
    from kata.hypervisor.machine import MachineSpec

MIB = 1 << 20
OVERHEAD_MIB = 1024
"""What may be locked besides the guest's memory: the devices' own, which is mapped the same way."""


def locked_memory(spec: MachineSpec) -> int:
    """Bytes that QEMU must be able to lock: devices reach all of the guest's memory. 0 without such devices."""
    if not spec.host_devices:
        return 0
    most = spec.max_memory_mib if devices.memory_slots(spec) else spec.memory_mib
    return (most + OVERHEAD_MIB) * MIB


@contextmanager
def open_groups(spec: MachineSpec, *, sysfs: str = "/sys", dev: str = "/dev") -> Iterator[None]:
    """Within the block QEMU's user owns the nodes of the groups; it opens them while it starts, and never again.

    Raises HypervisorError when a device is in no group.
    """
    nodes = sorted({f"{dev}/vfio/{_group(device.address, sysfs)}" for device in spec.host_devices})
    with ExitStack() as undo:
        for node in nodes if spec.uid is not None else ():
            undo.callback(_chown, node, _owner(node))
            os.chown(node, spec.uid or 0, -1)
        yield


def _group(address: str, sysfs: str) -> str:
    try:
        return os.path.basename(os.readlink(f"{sysfs}/bus/pci/devices/{address}/iommu_group"))
    except OSError:
        raise HypervisorError(
            f"the PCI device {address} is in no IOMMU group, so no guest can have it",
            hint="turn the IOMMU on, in the firmware and by intel_iommu=on or amd_iommu=on for the kernel",
            layer="host",
        ) from None


def _owner(node: str) -> int:
    try:
        return os.stat(node).st_uid
    except OSError as error:
        raise HypervisorError(
            f"{node} cannot be used: {error.strerror}", hint="all devices of the group need vfio-pci", layer="host"
        ) from error


def _chown(node: str, uid: int) -> None:
    with suppress(FileNotFoundError):  # the device was given back already
        os.chown(node, uid, -1)

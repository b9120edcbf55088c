"""Waiting for the devices that the host announces: from the protocol's names to the node or interface.

Called by device handlers, storage handlers and the interfaces. Each method waits at most the sandbox's hotplug
time-out and returns at once when the device is there. Never mount or configure here.
"""

from __future__ import annotations

import os

from kata.agent import modules
from kata.agent.devices.errors import DeviceError, InvalidDevice
from kata.agent.devices.wanted import (
    ApQueue,
    CcwBlock,
    NamedBlock,
    PciBlock,
    PciFunction,
    PciNetwork,
    Roots,
    ScsiBlock,
    VfioGroup,
    VirtioShare,
)
from kata.agent.errors import Unsupported
from kata.linux import pci
from kata.linux.fds import write_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kata.agent.uevents import Uevents

DEFAULT_TIMEOUT = 3.0
"""Seconds; the kernel parameter agent.hotplug_timeout."""

PMEM_SOURCES = ("nfit", "virtio_pmem")
"""Persistent memory comes through ACPI's table or as a virtio device; both make a region that nd_pmem drives."""


class Hotplug:
    """Finds hot-plugged (and cold-plugged) devices. `timeout` in seconds; `load` puts drivers into the kernel."""

    def __init__(
        self,
        uevents: Uevents,
        timeout: float = DEFAULT_TIMEOUT,
        *,
        sysfs: str = "/sys",
        dev: str = "/dev",
        load: Callable[[Sequence[str]], None] = modules.load_modules,
    ) -> None:
        self._uevents = uevents
        self._timeout = timeout
        self._roots = Roots(sysfs, dev)
        self._load = load

    @property
    def sysfs(self) -> str:
        """Where sysfs is."""
        return self._roots.sysfs

    @property
    def dev(self) -> str:
        """Where the device nodes are."""
        return self._roots.dev

    def load_drivers(self, names: Sequence[str]) -> None:
        """Drivers that a device will need. Raises Unsupported, AgentError."""
        self._load(names)

    def find_pci_block(self, path: str) -> str:
        """The node of the virtio disk at a PCI path. Raises InvalidDevice, DeviceTimeout."""
        self._load(("virtio_blk",))
        wanted = PciBlock(self._roots, self._resolve(path), path)
        return self._node(self._uevents.wait_for(wanted, self._timeout))

    def find_scsi_block(self, address: str) -> str:
        """The node of the SCSI disk at `<id>:<lun>`. Raises InvalidDevice, DeviceTimeout, DeviceError.

        The guest runs with scsi_mod.scan=none, so its hosts are told to look at this address.
        """
        target, found, lun = address.partition(":")
        if not found or not target.isdecimal() or not lun.isdecimal():
            raise InvalidDevice(f"{address!r} is no SCSI address (<id>:<lun>)")
        self._load(("virtio_scsi", "sd_mod"))
        wanted = ScsiBlock(self._roots, int(target), int(lun))
        scan = f"0 {int(target)} {int(lun)}"
        return self._node(self._uevents.wait_for(wanted, self._timeout, lambda: self._scan_scsi(scan)))

    def find_named_block(self, node: str) -> str:
        """The node itself, once the disk of that name is there. Raises InvalidDevice, DeviceTimeout."""
        name = node.removeprefix("/dev/")
        if name == node or not name or "/" in name or name in (".", ".."):
            raise InvalidDevice(f"{node!r} is no disk's path (/dev/<name>)")
        if name.startswith("pmem"):
            self._load_pmem()
        return self._node(self._uevents.wait_for(NamedBlock(self._roots, name), self._timeout))

    def find_pci_network(self, path: str) -> str:
        """The name of the network interface at a PCI path. Raises InvalidDevice, DeviceTimeout."""
        self._load(("virtio_net",))
        wanted = PciNetwork(self._roots, self._resolve(path), path)
        return self._uevents.wait_for(wanted, self._timeout)

    def find_share(self, tag: str) -> None:
        """Wait until the guest has the virtio-fs device with this tag, if its kernel tells. Raises DeviceTimeout."""
        if os.path.isdir(f"{self._roots.sysfs}/fs/virtiofs"):
            self._uevents.wait_for(VirtioShare(self._roots, tag), self._timeout)

    def find_pci_function(self, path: str) -> str:
        """The folder below sysfs of the function at a PCI path. Raises InvalidDevice, DeviceTimeout."""
        wanted = PciFunction(self._roots, self._resolve(path), path)
        return self._uevents.wait_for(wanted, self._timeout)

    def find_vfio_group(self, group: int) -> str:
        """The node of an IOMMU group, once a VFIO driver has one of its devices. Raises DeviceTimeout."""
        return self._node(self._uevents.wait_for(VfioGroup(self._roots, group), self._timeout))

    def find_ap_queue(self, card: str, domain: str) -> None:
        """Wait for a queue of a crypto adapter, having the bus looked at. Raises DeviceTimeout, Unsupported."""
        wanted = ApQueue(self._roots, card, domain)
        self._uevents.wait_for(wanted, self._timeout, self._scan_ap)

    def find_ccw_block(self, bus_id: str) -> str:
        """The node of the virtio disk at a CCW bus id. Raises DeviceTimeout, Unsupported."""
        if not os.path.isdir(f"{self._roots.sysfs}/devices/css0"):
            raise Unsupported("this guest has no channel subsystem, so it has no CCW disks")
        return self._node(self._uevents.wait_for(CcwBlock(self._roots, bus_id), self._timeout))

    def _load_pmem(self) -> None:
        self._load(("nd_pmem",))
        for source in PMEM_SOURCES:
            try:
                self._load((source,))
            except Unsupported:
                continue  # a kernel with only the other kind

    def _node(self, name: str) -> str:
        return f"{self._roots.dev}/{name}"

    def _resolve(self, path: str) -> str:
        try:
            return pci.resolve(pci.parse_path(path), self._roots.sysfs)
        except pci.PciError as error:
            raise InvalidDevice(str(error)) from error

    def _scan_ap(self) -> None:
        try:
            write_text(f"{self._roots.sysfs}/bus/ap/scans", "1")
        except FileNotFoundError:
            raise Unsupported("this guest has no AP bus, so it has no crypto adapters") from None
        except OSError as error:
            raise DeviceError(f"cannot scan the AP bus: {error.strerror}", detail=str(error)) from error

    def _scan_scsi(self, address: str) -> None:
        top = f"{self._roots.sysfs}/class/scsi_host"
        try:
            hosts = sorted(os.listdir(top))
            for host in hosts:
                write_text(f"{top}/{host}/scan", address)
        except OSError as error:
            raise DeviceError(f"cannot scan the SCSI hosts: {error.strerror}", detail=str(error)) from error
        if not hosts:
            raise DeviceError("the guest has no SCSI host to look for a disk on")

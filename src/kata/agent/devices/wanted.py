"""What a device looks like in an event and in sysfs: one small class a way of naming it.

Made by `hotplug`, asked by `kata.agent.uevents`. `match` compares whole components of the event's path, so that
neither a partition nor a device whose address merely begins alike is taken; `find` looks for the same in sysfs and
wants the node in /dev too, which the kernel makes after the sysfs folder and before the event.
Never wait or write here.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from kata.linux.fds import read_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.linux.uevent import Uevent


_SUBCHANNEL = re.compile(r"0\.[0-3]\.[0-9a-f]{1,4}")


class Roots(NamedTuple):
    """Where sysfs and the device nodes are; tests have their own."""

    sysfs: str = "/sys"
    dev: str = "/dev"


class PciBlock(NamedTuple):
    """The virtio disk whose PCI function is `folder` (below sysfs, such as /devices/pci0000:00/0000:00:02.0)."""

    roots: Roots
    folder: str
    path: str

    @property
    def what(self) -> str:
        """For messages."""
        return f"a virtio disk at PCI path {self.path}"

    def match(self, event: Uevent) -> str:
        """`<folder>/virtioN/block/<name>`."""
        parts = _below(event.devpath, self.folder)
        if event.subsystem != "block" or len(parts) != 3 or not _is_virtio(parts[0]) or parts[1] != "block":
            return ""
        return _named(event, parts[2])

    def find(self) -> str:
        """The disk's name when it is there."""
        top = self.roots.sysfs + self.folder
        folders = [f"{top}/{name}/block" for name in _list(top) if _is_virtio(name)]
        return _first_node(self.roots, folders)


class ScsiBlock(NamedTuple):
    """The disk at a SCSI id and LUN of a virtio SCSI host; channel 0, whatever number the host has."""

    roots: Roots
    target: int
    lun: int

    @property
    def what(self) -> str:
        """For messages."""
        return f"a SCSI disk at {self.target}:{self.lun}"

    def match(self, event: Uevent) -> str:
        """`.../virtioN/.../<host>:0:<id>:<lun>/block/<name>`."""
        parts = event.devpath.split("/")
        if event.subsystem != "block" or len(parts) < 4 or parts[-2] != "block":
            return ""
        if not self._is_address(parts[-3]) or not any(map(_is_virtio, parts)):
            return ""
        return _named(event, parts[-1])

    def find(self) -> str:
        """The disk's name when it is there."""
        top = f"{self.roots.sysfs}/class/scsi_device"
        folders = [
            f"{top}/{name}/device/block"
            for name in _list(top)
            if self._is_address(name) and any(map(_is_virtio, os.path.realpath(f"{top}/{name}").split("/")))
        ]
        return _first_node(self.roots, folders)

    def _is_address(self, text: str) -> bool:
        host, _, rest = text.partition(":")
        return host.isdecimal() and rest == f"0:{self.target}:{self.lun}"


class NamedBlock(NamedTuple):
    """A disk whose name the host foretold (virtio-mmio, persistent memory)."""

    roots: Roots
    name: str

    @property
    def what(self) -> str:
        """For messages."""
        return f"the disk {self.name}"

    def match(self, event: Uevent) -> str:
        """`.../block/<name>`."""
        if event.subsystem != "block" or event.devpath.split("/")[-2:] != ["block", self.name]:
            return ""
        return _named(event, self.name)

    def find(self) -> str:
        """The disk's name when it is there; a partition of that name is none."""
        folder = f"{self.roots.sysfs}/class/block/{self.name}"
        if not os.path.isdir(folder) or os.path.exists(f"{folder}/partition"):
            return ""
        return self.name if os.path.exists(f"{self.roots.dev}/{self.name}") else ""


class PciNetwork(NamedTuple):
    """The network interface whose PCI function is `folder`; for virtio there is one more folder between."""

    roots: Roots
    folder: str
    path: str

    @property
    def what(self) -> str:
        """For messages."""
        return f"a network interface at PCI path {self.path}"

    def match(self, event: Uevent) -> str:
        """`<folder>/net/<name>` or `<folder>/virtioN/net/<name>`."""
        parts = _below(event.devpath, self.folder)
        if parts and _is_virtio(parts[0]):
            parts = parts[1:]
        if event.subsystem != "net" or len(parts) != 2 or parts[0] != "net":
            return ""
        return event.interface

    def find(self) -> str:
        """The interface's name when it is there."""
        top = self.roots.sysfs + self.folder
        for folder in [top, *(f"{top}/{name}" for name in _list(top) if _is_virtio(name))]:
            for name in _list(f"{folder}/net"):
                return name
        return ""


class PciFunction(NamedTuple):
    """A PCI function itself, whatever drives it: `folder` below sysfs."""

    roots: Roots
    folder: str
    path: str

    @property
    def what(self) -> str:
        """For messages."""
        return f"a PCI device at path {self.path}"

    def match(self, event: Uevent) -> str:
        """The folder, exactly."""
        return self.folder if event.devpath == self.folder else ""

    def find(self) -> str:
        """The folder when it is there, complete as far as what the kernel makes before the event."""
        return self.folder if os.path.exists(f"{self.roots.sysfs}{self.folder}/driver_override") else ""


class VirtioShare(NamedTuple):
    """The virtio-fs device with a tag, as kernels since 6.9 show it (Documentation/ABI/testing/sysfs-fs-virtiofs)."""

    roots: Roots
    tag: str

    @property
    def what(self) -> str:
        """For messages."""
        return f"a virtio-fs device with the tag {self.tag}"

    def match(self, event: Uevent) -> str:
        """An event of the class says too little in some kernels: sysfs is looked at."""
        return self.find() if event.subsystem == "virtiofs" else ""

    def find(self) -> str:
        """The device's folder below /sys/fs/virtiofs."""
        top = f"{self.roots.sysfs}/fs/virtiofs"
        return next((name for name in _list(top) if self._tag_of(f"{top}/{name}") == self.tag), "")

    def _tag_of(self, folder: str) -> str:
        try:
            return read_text(f"{folder}/tag").strip()
        except OSError:
            return ""


class VfioGroup(NamedTuple):
    """The node of an IOMMU group whose devices are driven by VFIO."""

    roots: Roots
    group: int

    @property
    def what(self) -> str:
        """For messages."""
        return f"the VFIO group {self.group}"

    def match(self, event: Uevent) -> str:
        """`/devices/virtual/vfio/<group>`."""
        name = f"vfio/{self.group}"
        return name if event.devpath == f"/devices/virtual/{name}" and event.devname == name else ""

    def find(self) -> str:
        """The node's name when it is there."""
        name = f"vfio/{self.group}"
        there = os.path.isdir(f"{self.roots.sysfs}/devices/virtual/{name}")
        return name if there and os.path.exists(f"{self.roots.dev}/{name}") else ""


class ApQueue(NamedTuple):
    """A queue of a crypto adapter: its card and domain, in hexadecimal digits as sysfs has them."""

    roots: Roots
    card: str
    domain: str

    @property
    def what(self) -> str:
        """For messages."""
        return f"the AP queue {self.card}.{self.domain}"

    @property
    def folder(self) -> str:
        """Below sysfs."""
        return f"/devices/ap/card{self.card}/{self.card}.{self.domain}"

    def match(self, event: Uevent) -> str:
        """`/devices/ap/card<card>/<card>.<domain>`."""
        return self.folder if event.devpath == self.folder else ""

    def find(self) -> str:
        """The folder when it is there."""
        return self.folder if os.path.isdir(self.roots.sysfs + self.folder) else ""


class CcwBlock(NamedTuple):
    """The virtio disk at a CCW bus id such as 0.0.00a1."""

    roots: Roots
    bus_id: str

    @property
    def what(self) -> str:
        """For messages."""
        return f"a virtio disk at CCW device {self.bus_id}"

    def match(self, event: Uevent) -> str:
        """`/devices/css0/<subchannel>/<bus id>/virtioN/block/<name>`."""
        parts = _below(event.devpath, "/devices/css0")
        if event.subsystem != "block" or len(parts) != 5 or not _SUBCHANNEL.fullmatch(parts[0]):
            return ""
        if parts[1] != self.bus_id or not _is_virtio(parts[2]) or parts[3] != "block":
            return ""
        return _named(event, parts[4])

    def find(self) -> str:
        """The disk's name when it is there."""
        top = f"{self.roots.sysfs}/devices/css0"
        places = [f"{top}/{name}/{self.bus_id}" for name in _list(top) if _SUBCHANNEL.fullmatch(name)]
        folders = [f"{place}/{name}/block" for place in places for name in _list(place) if _is_virtio(name)]
        return _first_node(self.roots, folders)


def _below(devpath: str, folder: str) -> list[str]:
    """The components of `devpath` under `folder`; none when it is elsewhere."""
    return devpath[len(folder) + 1 :].split("/") if devpath.startswith(folder + "/") else []


def _is_virtio(part: str) -> bool:
    return part.startswith("virtio") and part[6:].isdecimal()


def _named(event: Uevent, entry: str) -> str:
    """The event's device name, when it is that of the sysfs entry (where "!" stands for "/")."""
    return event.devname if event.devname and event.devname == entry.replace("!", "/") else ""


def _list(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except OSError:  # not there (yet), or gone while we looked
        return []


def _first_node(roots: Roots, folders: list[str]) -> str:
    for folder in folders:
        for entry in _list(folder):
            name = entry.replace("!", "/")
            if os.path.exists(f"{roots.dev}/{name}"):
                return name
    return ""

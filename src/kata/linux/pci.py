"""PCI addresses, the PCI paths of the agent's protocol, and finding a path's device in sysfs.

Called by the agent's device and storage handlers, the interfaces and the uevent matchers. A *PCI path* names a
device by the slot it has on each bus from the root down ("02/01" is slot 1 of the bus behind slot 2): bus numbers
differ from guest to guest, slots do not. Never wait here: who needs a device that is still to come listens for
its uevent.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

ROOT_BUS = "00"
_FIRST_EXPANDER_BUS = 0x20
_ADDRESS = re.compile(r"([0-9a-fA-F]{4}):([0-9a-fA-F]{2}):([0-9a-fA-F]{2})\.([0-7])")
_SLOT = re.compile(r"([0-9a-fA-F]{1,2})(?:\.([0-7]))?")
_LAST_SLOT = 0x1F


class PciError(ValueError):
    """A PCI address or path is malformed, or leads nowhere in sysfs."""


class PciAddress(NamedTuple):
    """Where a device is on this machine: domain, bus, slot, function."""

    domain: int
    bus: int
    slot: int
    function: int

    def __str__(self) -> str:
        return f"{self.domain:04x}:{self.bus:02x}:{self.slot:02x}.{self.function}"


class PciPath(NamedTuple):
    """Slots from a root bus down. `root` is the root bus's number, two hexadecimal digits; "00" but for NUMA."""

    root: str
    slots: tuple[tuple[int, int], ...]

    def __str__(self) -> str:
        path = "/".join(f"{slot:02x}.{function}" for slot, function in self.slots)
        return path if self.root == ROOT_BUS else f"{self.root}/{path}"


def parse_address(text: str) -> PciAddress:
    """A PCI address as `DDDD:BB:SS.F`. Raises PciError."""
    match = _ADDRESS.fullmatch(text)
    if not match or int(match[3], 16) > _LAST_SLOT:
        raise PciError(f"{text!r} is no PCI address (DDDD:BB:SS.F)")
    return PciAddress(int(match[1], 16), int(match[2], 16), int(match[3], 16), int(match[4]))


def parse_path(text: str) -> PciPath:
    """A PCI path: `SS` or `SS.F` joined by `/`. Raises PciError.

    With three parts or more, a first part above 1f can be no slot: it is the root bus of an expander bridge (NUMA).
    """
    parts = text.split("/")
    root = ROOT_BUS
    if len(parts) > 2 and re.fullmatch("[0-9a-fA-F]{2}", parts[0]) and int(parts[0], 16) >= _FIRST_EXPANDER_BUS:
        root = parts.pop(0).lower()
    return PciPath(root, tuple(_parse_slot(part, text) for part in parts))


def _parse_slot(part: str, text: str) -> tuple[int, int]:
    match = _SLOT.fullmatch(part)
    if not match or int(match[1], 16) > _LAST_SLOT:
        raise PciError(f"{text!r} is no PCI path: {part!r} is no slot (00 to 1f, perhaps with .0 to .7)")
    return int(match[1], 16), int(match[2] or 0)


def find_root(sysfs: str, root: str = ROOT_BUS) -> str:
    """The root bus's folder below `sysfs`, such as `/devices/pci0000:00`.

    On arm64 without ACPI it hangs below a platform device (Linux: pci-host-generic).
    """
    name = f"pci0000:{root}"
    if os.path.isdir(f"{sysfs}/devices/{name}"):
        return f"/devices/{name}"
    try:
        bridges = sorted(entry for entry in os.listdir(f"{sysfs}/devices/platform") if entry.endswith(".pcie"))
    except FileNotFoundError:
        bridges = []
    for bridge in bridges:
        if os.path.isdir(f"{sysfs}/devices/platform/{bridge}/{name}"):
            return f"/devices/platform/{bridge}/{name}"
    return f"/devices/{name}"


def resolve(path: PciPath, sysfs: str = "/sys") -> str:
    """The device's folder below `sysfs`, e.g. `/devices/pci0000:00/0000:00:02.0/0000:01:01.0`.

    The device itself need not be there yet; the bridges on the way must. Raises PciError.
    """
    folder = find_root(sysfs, path.root)
    bus = f"0000:{path.root}"
    for index, (slot, function) in enumerate(path.slots):
        folder += f"/{bus}:{slot:02x}.{function}"
        if index + 1 < len(path.slots):
            bus = _secondary_bus(sysfs + folder, path)
    return folder


def _secondary_bus(bridge: str, path: PciPath) -> str:
    """The bus behind a bridge, as `0000:01`."""
    try:
        buses = os.listdir(f"{bridge}/pci_bus")
    except FileNotFoundError:
        buses = _buses_of_children(bridge)
    except OSError as error:
        raise PciError(f"cannot read the bus behind {bridge}: {error.strerror}") from error
    if len(buses) != 1:
        found = ", ".join(sorted(buses)) or "none"
        raise PciError(f"PCI path {path}: expected one bus behind {bridge}, found {found}")
    return buses[0]


def _buses_of_children(bridge: str) -> list[str]:
    """Without a `pci_bus` folder the devices behind the bridge tell their bus."""
    try:
        names = os.listdir(bridge)
    except OSError:
        return []
    return sorted({name.rpartition(":")[0] for name in names if _ADDRESS.fullmatch(name)})

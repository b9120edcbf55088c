"""Takes a PCI network device from its driver, so that a VM can have it, and gives it back.

Source: Documentation/ABI/testing/sysfs-bus-pci (driver_override, unbind, drivers_probe).
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kata.linux.fds import write_text
from kata.linux.pci import parse_address

if TYPE_CHECKING:
    from collections.abc import Iterator

DRIVER = "vfio-pci"


@contextmanager
def bound_to_vfio(address: str, sysfs: str = "/sys") -> Iterator[None]:
    """Within the block the device belongs to vfio-pci; afterwards to the driver that it had.

    Its network interface comes back in the host's namespace: the kernel makes a new one. `address` is a PCI
    address. Raises OSError, PciError.
    """
    device = f"{sysfs}/bus/pci/devices/{parse_address(address)}"
    before = _driver(device)
    try:
        if before != DRIVER:
            _change_driver(sysfs, device, DRIVER)
        if _driver(device) != DRIVER:
            raise OSError(errno.ENODEV, f"{DRIVER} did not take the PCI device {address}; is it loaded?")
        yield
    finally:
        if before != DRIVER:
            _restore_driver(sysfs, device, before)


def release(address: str, sysfs: str = "/sys") -> None:
    """Give back a device that a killed runtime had: whatever driver it would have after a boot. Idempotent.

    A device that is gone is fine. Raises OSError, PciError.
    """
    device = f"{sysfs}/bus/pci/devices/{parse_address(address)}"
    if _driver(device) == DRIVER:
        write_text(f"{device}/driver_override", "\n")
        write_text(f"{device}/driver/unbind", os.path.basename(device))
        write_text(f"{sysfs}/bus/pci/drivers_probe", os.path.basename(device))


def _change_driver(sysfs: str, device: str, driver: str) -> None:
    write_text(f"{device}/driver_override", driver)
    if _driver(device):
        write_text(f"{device}/driver/unbind", os.path.basename(device))
    write_text(f"{sysfs}/bus/pci/drivers_probe", os.path.basename(device))


def _restore_driver(sysfs: str, device: str, before: str) -> None:
    write_text(f"{device}/driver_override", "\n")  # clears it
    now = _driver(device)
    if now == before:
        return
    if now:
        write_text(f"{device}/driver/unbind", os.path.basename(device))
    if before:
        write_text(f"{sysfs}/bus/pci/drivers_probe", os.path.basename(device))


def _driver(device: str) -> str:
    """The name of the device's driver, empty without one."""
    try:
        return os.path.basename(os.readlink(f"{device}/driver"))
    except FileNotFoundError:
        return ""

"""Which driver of the guest's kernel has a PCI function, and in which IOMMU group it is.

Called by the VFIO handlers. A function is named by its checked address alone, and the only driver that is ever
written to sysfs is `VFIO_DRIVER`: nothing that a message holds gets there. Never wait here.
"""

from __future__ import annotations

import os

from kata.agent.devices.errors import DeviceError
from kata.linux.fds import write_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.linux.pci import PciAddress

VFIO_DRIVER = "vfio-pci"


def bind_to_vfio(address: PciAddress, sysfs: str = "/sys") -> None:
    """Have vfio-pci drive a function, whatever drove it (Documentation/ABI/testing/sysfs-bus-pci, driver_override).

    Raises DeviceError.
    """
    folder = f"{sysfs}/bus/pci/devices/{address}"
    try:
        write_text(f"{folder}/driver_override", VFIO_DRIVER)
        bound = driver_of(address, sysfs)
        if bound == VFIO_DRIVER:
            return
        if bound:
            write_text(f"{folder}/driver/unbind", str(address))
        write_text(f"{sysfs}/bus/pci/drivers_probe", str(address))
        bound = driver_of(address, sysfs)
    except OSError as error:
        raise DeviceError(
            f"the PCI device {address} cannot be bound to {VFIO_DRIVER}: {error.strerror}", detail=str(error)
        ) from error
    if bound != VFIO_DRIVER:
        raise DeviceError(
            f"the PCI device {address} was not taken by {VFIO_DRIVER}" + (f" but by {bound}" if bound else ""),
            hint="The guest's kernel log says why; without an IOMMU in the guest the driver refuses devices.",
        )


def driver_of(address: PciAddress, sysfs: str = "/sys") -> str:
    """The name of the driver that has the function, or "". Raises OSError."""
    try:
        return os.path.basename(os.readlink(f"{sysfs}/bus/pci/devices/{address}/driver"))
    except FileNotFoundError:
        return ""


def iommu_group(address: PciAddress, sysfs: str = "/sys") -> int | None:
    """The function's IOMMU group in the guest, None without one. Raises DeviceError."""
    link = f"{sysfs}/bus/pci/devices/{address}/iommu_group"
    try:
        name = os.path.basename(os.readlink(link))
    except FileNotFoundError:
        return None
    except OSError as error:  # a folder where a link should be
        raise DeviceError(f"{link} is no link to an IOMMU group", detail=str(error)) from error
    if not (name.isascii() and name.isdecimal()):
        raise DeviceError(f"{link} leads to {name!r}, which is no IOMMU group")
    return int(name)

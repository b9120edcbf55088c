"""A folder that behaves as the PCI part of sysfs does."""

from __future__ import annotations

from pathlib import Path

from kata.linux import fds

ADDRESS = "0000:5e:00.1"


class Sysfs:
    """A PCI bus with one device. Writing to its files does what the kernel would do."""

    def __init__(self, root: Path, *, vfio_loaded: bool = True) -> None:
        self.root, self.vfio_loaded = root, vfio_loaded
        self.device = root / "bus/pci/devices" / ADDRESS
        self.device.mkdir(parents=True)
        (self.device / "driver_override").touch()
        (root / "bus/pci/drivers_probe").touch()
        for name in ("ixgbevf", "vfio-pci"):
            (root / "bus/pci/drivers" / name).mkdir(parents=True)
            (root / "bus/pci/drivers" / name / "unbind").touch()
        self.log: list[str] = []

    @property
    def driver(self) -> str:
        """That of the device; empty without one."""
        link = self.device / "driver"
        return link.readlink().name if link.is_symlink() else ""

    def bind(self, name: str) -> None:
        """Give it a driver, or none."""
        (self.device / "driver").unlink(missing_ok=True)
        if name:
            (self.device / "driver").symlink_to(self.root / "bus/pci/drivers" / name)

    def write(self, path: str, text: str) -> None:
        """In the place of `write_text`."""
        fds.write_text(path, text)  # fails where sysfs has no such file
        self.log.append(f"{Path(path).name}={text.strip()}")
        if path.endswith("/unbind"):
            assert text == ADDRESS and self.driver
            self.bind("")
        elif path.endswith("/drivers_probe") and not self.driver:
            override = (self.device / "driver_override").read_text().strip()
            if override != "vfio-pci" or self.vfio_loaded:
                self.bind(override or "ixgbevf")
        elif path.endswith("/driver_override"):
            Path(path).write_text(text)

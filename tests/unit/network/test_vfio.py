"""Taking a PCI device from its driver, against a folder that behaves as sysfs does. No machine of ours has IOMMUs."""

from __future__ import annotations

from pathlib import Path

import pytest

from kata.linux import fds
from kata.linux.pci import PciError
from kata.network import vfio
from kata.network.cleanup import cleanup
from kata.network.endpoint import Endpoint
from kata.network.errors import NetworkError
from kata.network.vfio import bound_to_vfio, release

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
        link = self.device / "driver"
        return link.readlink().name if link.is_symlink() else ""

    def bind(self, name: str) -> None:
        (self.device / "driver").unlink(missing_ok=True)
        if name:
            (self.device / "driver").symlink_to(self.root / "bus/pci/drivers" / name)

    def write(self, path: str, text: str) -> None:
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


@pytest.fixture
def sysfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sysfs:
    made = Sysfs(tmp_path)
    monkeypatch.setattr(vfio, "write_text", made.write)
    return made


@pytest.mark.parametrize("before", ["ixgbevf", "vfio-pci", ""])
def test_the_driver_comes_back(sysfs: Sysfs, before: str) -> None:
    sysfs.bind(before)
    with bound_to_vfio(ADDRESS, str(sysfs.root)):
        assert sysfs.driver == "vfio-pci"
    assert sysfs.driver == before
    if before == "vfio-pci":
        assert sysfs.log == []  # somebody has prepared it and it is his


def test_the_driver_comes_back_after_a_failure(sysfs: Sysfs) -> None:
    sysfs.bind("ixgbevf")
    with pytest.raises(ZeroDivisionError), bound_to_vfio(ADDRESS, str(sysfs.root)):
        raise ZeroDivisionError
    assert sysfs.driver == "ixgbevf"


def test_vfio_that_is_not_loaded(sysfs: Sysfs) -> None:
    sysfs.bind("ixgbevf")
    sysfs.vfio_loaded = False
    with pytest.raises(OSError, match="vfio-pci did not take"), bound_to_vfio(ADDRESS, str(sysfs.root)):
        pass
    assert sysfs.driver == "ixgbevf"


def test_what_a_killed_runtime_had_is_given_back(sysfs: Sysfs) -> None:
    sysfs.bind("vfio-pci")
    (sysfs.device / "driver_override").write_text("vfio-pci")
    for _ in range(2):
        release(ADDRESS, str(sysfs.root))
        assert sysfs.driver == "ixgbevf"
    log = list(sysfs.log)
    release("0000:5e:00.2", str(sysfs.root))  # gone
    assert sysfs.log == log


def test_clean_up_gives_back_the_devices_on_record(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []
    monkeypatch.setattr(vfio, "release", given.append)
    record = [
        Endpoint(name="eth0", index=2, mac="", mtu=1500, kind="veth", flags=0),
        Endpoint(name="eth1", index=3, mac="", mtu=1500, kind="physical", flags=0, pci_address=ADDRESS),
    ]
    cleanup("/nonexistent/netns", record)
    assert given == [ADDRESS]

    def refuse(_address: str) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(vfio, "release", refuse)
    with pytest.raises(NetworkError, match="of 'eth1' could not be given back: Input/output error"):
        cleanup("/nonexistent/netns", record)


def test_an_address_that_leaves_sysfs(sysfs: Sysfs) -> None:
    with pytest.raises(PciError), bound_to_vfio("../../../etc", str(sysfs.root)):
        pass

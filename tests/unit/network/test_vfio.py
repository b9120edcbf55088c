"""Taking a PCI device from its driver, against a folder that behaves as sysfs does. No machine of ours has IOMMUs."""

from __future__ import annotations

from pathlib import Path

import pytest

from kata.linux.pci import PciError
from kata.network import vfio
from kata.network.cleanup import cleanup
from kata.network.errors import NetworkError
from kata.network.vfio import bound_to_vfio, release
from tests.helpers.sysfs import ADDRESS, Sysfs


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
    cleanup("/nonexistent/netns", [ADDRESS, "0000:5e:00.2"])
    assert sorted(given) == [ADDRESS, "0000:5e:00.2"]

    def refuse(_address: str) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(vfio, "release", refuse)
    with pytest.raises(NetworkError, match=f"device {ADDRESS} could not be given back: Input/output error"):
        cleanup("/nonexistent/netns", [ADDRESS])


def test_a_damaged_record() -> None:
    with pytest.raises(NetworkError, match="is no PCI address"):
        cleanup("/nonexistent/netns", ["../../../etc"])


def test_an_address_that_leaves_sysfs(sysfs: Sysfs) -> None:
    with pytest.raises(PciError), bound_to_vfio("../../../etc", str(sysfs.root)):
        pass

"""PCI addresses and paths, and the way from a path to sysfs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.linux import pci


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("02", "02.0"),
        ("2", "02.0"),
        ("02/1d", "02.0/1d.0"),
        ("1e.7/03/00.1", "1e.7/03.0/00.1"),
        ("02/00/01", "02.0/00.0/01.0"),  # nested bridges, no expander bus
        ("20/01/02", "20/01.0/02.0"),
        ("FE/01/02", "fe/01.0/02.0"),
    ],
)
def test_paths(text: str, printed: str) -> None:
    path = pci.parse_path(text)
    assert str(path) == printed
    assert pci.parse_path(printed) == path


@pytest.mark.parametrize(
    "text",
    ["", "/", "02/", "/02", "20", "20/01", "02.8", "02.", "xx", "0x2", "002", "02/../03", "02 ", "-1", "1e/20/00"],
)
def test_what_is_no_path(text: str) -> None:
    with pytest.raises(pci.PciError):
        pci.parse_path(text)


@pytest.mark.parametrize(
    "text", ["", "00:02.0", "0000:00:02", "0000:00:20.0", "0000:00:02.8", "g000:00:02.0", "0000:00:02.0 "]
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(pci.PciError):
        pci.parse_address(text)


@given(st.integers(0, 0xFFFF), st.integers(0, 255), st.integers(0, 31), st.integers(0, 7))
def test_addresses(domain: int, bus: int, slot: int, function: int) -> None:
    address = pci.PciAddress(domain, bus, slot, function)
    assert pci.parse_address(str(address)) == address
    assert pci.parse_address(str(address).upper()) == address


ROOT = "devices/pci0000:00"


def resolve(sysfs: Path, text: str) -> str:
    return pci.resolve(pci.parse_path(text), os.fspath(sysfs))


def test_one_element_needs_nothing(tmp_path: Path) -> None:
    assert resolve(tmp_path, "02") == "/devices/pci0000:00/0000:00:02.0"


def test_bridges_on_the_way(tmp_path: Path) -> None:
    with pytest.raises(pci.PciError, match="found none"):
        resolve(tmp_path, "02/03")
    (tmp_path / ROOT / "0000:00:02.0/pci_bus/0000:01").mkdir(parents=True)
    assert resolve(tmp_path, "02/03") == "/devices/pci0000:00/0000:00:02.0/0000:01:03.0"
    with pytest.raises(pci.PciError):
        resolve(tmp_path, "02/03/04")
    (tmp_path / ROOT / "0000:00:02.0/0000:01:03.0/pci_bus/0000:02").mkdir(parents=True)
    assert resolve(tmp_path, "02/03/04.1") == "/devices/pci0000:00/0000:00:02.0/0000:01:03.0/0000:02:04.1"


def test_two_buses_behind_a_bridge(tmp_path: Path) -> None:
    for bus in ("0000:01", "0000:02"):
        (tmp_path / ROOT / "0000:00:02.0/pci_bus" / bus).mkdir(parents=True)
    with pytest.raises(pci.PciError, match="0000:01, 0000:02"):
        resolve(tmp_path, "02/03")


def test_the_bus_by_the_devices_on_it(tmp_path: Path) -> None:
    for name in ("0000:05:00.0", "0000:05:01.0", "power"):
        (tmp_path / ROOT / "0000:00:02.0" / name).mkdir(parents=True)
    assert resolve(tmp_path, "02/03") == "/devices/pci0000:00/0000:00:02.0/0000:05:03.0"
    (tmp_path / ROOT / "0000:00:02.0/0000:06:00.0").mkdir()
    with pytest.raises(pci.PciError, match="found 0000:05, 0000:06"):
        resolve(tmp_path, "02/03")


def test_expander_bus(tmp_path: Path) -> None:
    (tmp_path / "devices/pci0000:40/0000:40:01.0/pci_bus/0000:41").mkdir(parents=True)
    assert resolve(tmp_path, "40/01/02") == "/devices/pci0000:40/0000:40:01.0/0000:41:02.0"


def test_root_behind_a_platform_device(tmp_path: Path) -> None:
    (tmp_path / "devices/platform/4010000000.pcie/pci0000:00").mkdir(parents=True)
    assert resolve(tmp_path, "02") == "/devices/platform/4010000000.pcie/pci0000:00/0000:00:02.0"

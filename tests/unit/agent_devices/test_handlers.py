"""Device messages: what is refused, what the handlers return, and the batch as a whole."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kata.agent.devices.batch import adapt_devices, add_devices, collect_updates
from kata.agent.devices.context import DeviceContext, read_node
from kata.agent.devices.errors import DeviceError, InvalidDevice
from kata.agent.devices.registry import HANDLERS
from kata.agent.updates import GuestNode, SpecUpdate, UpdateError
from kata.protocol.generated import agent_pb2
from tests.unit.agent_devices.fakes import PCI, FakeGuest

NULL = GuestNode("c", 1, 3)


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[FakeGuest]:
    """A guest in which every disk's node is (a link to) /dev/null: real numbers without root."""
    with FakeGuest(tmp_path, timeout=0.1) as made:
        for name in ("vda", "vdb", "pmem0"):
            (made.dev / name).symlink_to("/dev/null")
            made.add_folder(f"class/block/{name}")
        made.add_folder(f"{PCI}/0000:00:02.0/virtio1/block/vda")
        yield made


def message(**fields: Any) -> agent_pb2.Device:
    return agent_pb2.Device(**{"id": "02", "type": "blk", "container_path": "/dev/x", **fields})


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"type": ""}, "invalid type"),
        ({"id": ""}, "invalid ID and VM path"),
        ({"container_path": ""}, "invalid container path"),
        ({"type": "vfio-pci"}, "names no PCI device"),
        ({"type": "vfio-mdev"}, "Unknown device type vfio-mdev"),
        ({"type": "blk-ccw"}, "no CCW device"),
        ({"id": "zz"}, "no PCI path"),
        ({"type": "scsi", "id": "1"}, "no SCSI address"),
        ({"type": "mmioblk", "vm_path": ""}, "no disk's path"),
        ({"type": "nvdimm", "vm_path": "/dev/a/b"}, "no disk's path"),
    ],
)
def test_messages_that_can_never_work(guest: FakeGuest, fields: dict[str, str], sentence: str) -> None:
    with pytest.raises(InvalidDevice, match=sentence):
        collect_updates([message(**fields)], DeviceContext(guest.hotplug))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"type": "mmioblk", "vm_path": "/dev/vdb"},
        {"type": "nvdimm", "id": "", "vm_path": "/dev/pmem0"},
    ],
)
def test_handlers_return_updates(guest: FakeGuest, fields: dict[str, str]) -> None:
    assert collect_updates([message(**fields)], DeviceContext(guest.hotplug)) == [SpecUpdate("/dev/x", NULL)]


def test_all_messages_are_checked_before_any_is_waited_for(guest: FakeGuest) -> None:
    with pytest.raises(InvalidDevice, match="Unknown device type"):
        collect_updates([message(id="1f"), message(type="x")], DeviceContext(guest.hotplug))


def test_the_whole_batch(guest: FakeGuest) -> None:
    spec: Any = {
        "process": {"env": ["A=1"]},
        "linux": {"devices": [{"path": "/dev/x", "type": "c", "major": 8, "minor": 0}]},
    }
    before = copy.deepcopy(spec)
    context = DeviceContext(guest.hotplug)
    adapted: Any = add_devices([message()], spec, context)
    assert adapted["linux"]["devices"] == [{"path": "/dev/x", "type": "c", "major": 1, "minor": 3}]
    assert adapt_devices([message()], spec, context) == (adapted, {})
    with pytest.raises(UpdateError, match="Missing devices"):
        add_devices([message(container_path="/dev/y")], spec, context)
    with pytest.raises(DeviceError, match="Timeout"):
        add_devices([message(), message(id="03", container_path="/dev/y")], spec, context)
    assert spec == before


def test_node_numbers(tmp_path: Path) -> None:
    assert read_node("/dev/null") == NULL
    link = tmp_path / "link"
    link.symlink_to("/dev/zero")
    assert read_node(os.fspath(link)) == GuestNode("c", 1, 5)
    with pytest.raises(DeviceError, match="doesn't exist"):
        read_node(os.fspath(tmp_path / "none"))
    with pytest.raises(DeviceError, match="doesn't exist"):
        read_node("")
    with pytest.raises(InvalidDevice, match="no device"):
        read_node("/")


def test_registered_types() -> None:
    assert set(HANDLERS) == {
        *("blk", "blk-ccw", "mmioblk", "nvdimm", "scsi"),
        *("vfio", "vfio-ap", "vfio-ap-cold", "vfio-gk", "vfio-pci", "vfio-pci-gk"),
    }

"""PCI passthrough in the guest: binding, groups, addresses, RDMA nodes; AP queues and CCW disks."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kata.agent.devices import ap, binding, ccw, hotplug, vfio
from kata.agent.devices.batch import adapt_devices, collect_updates
from kata.agent.devices.context import DeviceContext
from kata.agent.devices.errors import DeviceError, DeviceTimeout, InvalidDevice
from kata.agent.devices.wanted import ApQueue, CcwBlock, PciFunction, Roots, VfioGroup
from kata.agent.edits import AddedNode
from kata.agent.errors import Unsupported
from kata.agent.updates import GuestNode, SpecUpdate, translate_process
from kata.linux.pci import parse_address
from kata.linux.uevent import Uevent
from kata.protocol.generated import agent_pb2
from tests.unit.agent_devices.fakes import PCI, FakeGuest

NULL = GuestNode("c", 1, 3)
HOST, OTHER_HOST = "0000:3b:00.0", "0000:3b:00.1"
GUEST, OTHER_GUEST = "0000:00:05.0", "0000:00:05.1"


class Bus:
    """The PCI bus of a guest: folders as in sysfs, and what the kernel does when they are written to."""

    def __init__(self, guest: FakeGuest, monkeypatch: pytest.MonkeyPatch) -> None:
        self.guest = guest
        self.writes: list[tuple[str, str]] = []
        self.refuses = False
        for name in ("devices", "drivers/e1000", "drivers/vfio-pci"):
            guest.add_folder(f"bus/pci/{name}")
        (guest.dev / "vfio").mkdir()
        monkeypatch.setattr(binding, "write_text", self.write)

    def plug(self, address: str, *, driver: str = "", group: int | None = None) -> None:
        folder = self.guest.add_folder(f"{PCI}/{address}")
        (folder / "driver_override").touch()
        (self.guest.sys / "bus/pci/devices" / address).symlink_to(folder)
        if group is not None:
            groups = self.guest.sys / "kernel/iommu_groups" / str(group)
            groups.mkdir(parents=True, exist_ok=True)
            (folder / "iommu_group").symlink_to(groups)
        if driver:
            self.bind(address, driver)

    def bind(self, address: str, driver: str) -> None:
        link = self.guest.sys / "bus/pci/devices" / address
        (link / "driver").symlink_to(self.guest.sys / "bus/pci/drivers" / driver)
        group = link / "iommu_group"
        if driver == "vfio-pci" and group.exists():
            name = f"vfio/{group.resolve().name}"
            node = self.guest.dev / name
            if not node.exists():
                node.symlink_to("/dev/null")
                self.guest.add_folder(f"devices/virtual/{name}")
                self.guest.announce(f"/devices/virtual/{name}", "vfio", name)

    def write(self, path: str, text: str) -> None:
        place = os.path.relpath(path, self.guest.sys)
        self.writes.append((place.removeprefix("bus/pci/"), text))
        if place.endswith("/driver/unbind"):
            os.unlink(os.path.dirname(path))
        elif place == "bus/pci/drivers_probe" and not self.refuses:
            self.bind(text, "vfio-pci")
        elif not os.path.exists(path) and place != "bus/pci/drivers_probe":
            raise FileNotFoundError(2, "No such file or directory", path)


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[FakeGuest]:
    with FakeGuest(tmp_path, timeout=0.2) as made:
        yield made


@pytest.fixture
def bus(guest: FakeGuest, monkeypatch: pytest.MonkeyPatch) -> Bus:
    return Bus(guest, monkeypatch)


def message(*options: str, kind: str = "vfio-pci", path: str = "/dev/vfio/42") -> agent_pb2.Device:
    return agent_pb2.Device(id="42", type=kind, container_path=path, options=options)


def updates(guest: FakeGuest, *messages: agent_pb2.Device) -> list[SpecUpdate]:
    return collect_updates(messages, DeviceContext(guest.hotplug))


def test_driver_override_of_an_unbound_function(bus: Bus) -> None:
    bus.plug(GUEST)
    binding.bind_to_vfio(parse_address(GUEST), str(bus.guest.sys))
    assert bus.writes == [(f"devices/{GUEST}/driver_override", "vfio-pci"), ("drivers_probe", GUEST)]


def test_driver_override_of_a_function_that_is_vfios_already(bus: Bus) -> None:
    bus.plug(GUEST, driver="vfio-pci")
    binding.bind_to_vfio(parse_address(GUEST), str(bus.guest.sys))
    assert bus.writes == [(f"devices/{GUEST}/driver_override", "vfio-pci")]


def test_driver_override_of_a_function_that_another_driver_has(bus: Bus) -> None:
    bus.plug(GUEST, driver="e1000")
    binding.bind_to_vfio(parse_address(GUEST), str(bus.guest.sys))
    assert bus.writes == [
        (f"devices/{GUEST}/driver_override", "vfio-pci"),
        (f"devices/{GUEST}/driver/unbind", GUEST),
        ("drivers_probe", GUEST),
    ]


def test_a_function_that_vfio_does_not_take(bus: Bus) -> None:
    bus.plug(GUEST, driver="e1000")
    bus.refuses = True
    with pytest.raises(DeviceError, match=r"was not taken by vfio-pci$"):
        binding.bind_to_vfio(parse_address(GUEST), str(bus.guest.sys))
    with pytest.raises(DeviceError, match="cannot be bound to vfio-pci: No such file"):
        binding.bind_to_vfio(parse_address("0000:00:1f.0"), str(bus.guest.sys))


def test_iommu_groups(bus: Bus) -> None:
    sysfs = str(bus.guest.sys)
    bus.plug(GUEST)
    assert binding.iommu_group(parse_address(GUEST), sysfs) is None
    bus.plug(OTHER_GUEST, group=12)
    assert binding.iommu_group(parse_address(OTHER_GUEST), sysfs) == 12
    (bus.guest.sys / PCI / GUEST / "iommu_group").mkdir()
    with pytest.raises(DeviceError, match="is no link"):
        binding.iommu_group(parse_address(GUEST), sysfs)
    (bus.guest.sys / PCI / GUEST / "iommu_group").rmdir()
    (bus.guest.sys / PCI / GUEST / "iommu_group").symlink_to("../none")
    with pytest.raises(DeviceError, match="'none', which is no IOMMU group"):
        binding.iommu_group(parse_address(GUEST), sysfs)


@pytest.mark.parametrize("kind", ["vfio-pci", "vfio"])
def test_two_functions_of_one_group(bus: Bus, kind: str) -> None:
    bus.plug(GUEST, driver="e1000", group=7)
    bus.plug(OTHER_GUEST, group=7)
    [update] = updates(bus.guest, message(f"{HOST}=05", f"{OTHER_HOST}=05.1", kind=kind))
    assert update == SpecUpdate("/dev/vfio/42", NULL, "/dev/vfio/7", ((HOST, GUEST), (OTHER_HOST, OTHER_GUEST)))
    assert bus.guest.drivers == ["vfio-pci", "vfio_iommu_type1"]
    assert bus.guest.uevents.waiting == 0


@pytest.mark.parametrize("kind", ["vfio-pci-gk", "vfio-gk"])
def test_the_guests_kernel_keeps_the_functions(bus: Bus, kind: str) -> None:
    bus.plug(GUEST, driver="e1000", group=7)
    [update] = updates(bus.guest, message(f"{HOST}=05", kind=kind))
    assert update == SpecUpdate("/dev/vfio/42", None, pci=((HOST, GUEST),))
    assert (bus.writes, bus.guest.drivers) == ([], [])


def test_a_function_that_comes(bus: Bus) -> None:
    bus.guest.announce(f"/{PCI}/{GUEST}0", "pci", "")
    with pytest.raises(DeviceTimeout, match="a PCI device at path 05"):
        updates(bus.guest, message(f"{HOST}=05", kind="vfio-pci-gk"))
    assert bus.guest.uevents.waiting == 0


def test_functions_in_different_groups(bus: Bus) -> None:
    bus.plug(GUEST, group=7)
    bus.plug(OTHER_GUEST, group=8)
    with pytest.raises(DeviceError, match=f"{GUEST} in 7, {OTHER_GUEST} in 8"):
        updates(bus.guest, message(f"{HOST}=05", f"{OTHER_HOST}=05.1"))


def test_a_function_without_a_group(bus: Bus) -> None:
    bus.plug(GUEST)
    with pytest.raises(DeviceError, match="has no IOMMU group"):
        updates(bus.guest, message(f"{HOST}=05"))


@pytest.mark.parametrize("option", ["", HOST, f"{HOST}=05=06", "3b:00.0=05", f"x{HOST}=05", "../..=05", f"{HOST}=zz"])
def test_malformed_options_reach_no_file(bus: Bus, option: str) -> None:
    for kind in ("vfio-pci", "vfio-pci-gk"):
        with pytest.raises(InvalidDevice):
            updates(bus.guest, message(option, kind=kind))
    assert bus.writes == []


def test_options_are_split_at_one_sign() -> None:
    assert vfio.parse_option(f"{HOST}=02/01") == (parse_address(HOST), "02/01")
    assert vfio.parse_option(f"{HOST}=") == (parse_address(HOST), "")


def test_no_functions_at_all(bus: Bus) -> None:
    for options in ([], [f"{HOST}="]):
        with pytest.raises(InvalidDevice, match="names no PCI device"):
            updates(bus.guest, message(*options))
        assert updates(bus.guest, message(*options, kind="vfio-pci-gk")) == [SpecUpdate("/dev/vfio/42", None)]


def test_rdma_nodes_of_its_own_adapter_only(bus: Bus) -> None:
    folder = bus.guest.dev / "infiniband"
    folder.mkdir()
    for name in ("uverbs0", "umad0", "uverbs1", "rdma_cm"):
        (folder / name).symlink_to("/dev/null")
    bus.plug(GUEST)
    bus.plug(OTHER_GUEST)
    bus.plug("0000:00:06.0")
    for place in (f"{GUEST}/infiniband_verbs/uverbs0", f"{GUEST}/infiniband_mad/umad0", f"{GUEST}/infiniband_mad/gone"):
        bus.guest.add_folder(f"{PCI}/{place}")
    bus.guest.add_folder(f"{PCI}/{OTHER_GUEST}/infiniband_verbs/uverbs1")
    mine, without = updates(
        bus.guest,
        message(f"{HOST}=05", kind="vfio-pci-gk"),
        message(f"{OTHER_HOST}=06", kind="vfio-pci-gk", path="/dev/vfio/43"),
    )
    names = ("rdma_cm", "umad0", "uverbs0")
    assert mine.edits.nodes == tuple(AddedNode(f"/dev/infiniband/{name}", NULL) for name in names)
    assert without.edits.nodes == ()


def test_the_container_sees_the_guests_group_and_addresses(bus: Bus) -> None:
    bus.plug(GUEST, driver="e1000", group=7)
    (bus.guest.dev / "vda").symlink_to("/dev/zero")
    bus.guest.add_folder(f"{PCI}/0000:00:02.0/virtio1/block/vda")
    env = [f"PCIDEVICE_X={HOST}", f'PCIDEVICE_X_INFO={{"{HOST}":1}}', "A=1"]
    spec: Any = {
        "process": {"env": env},
        "linux": {
            "devices": [
                {"path": "/dev/vfio/42", "type": "c", "major": 1, "minor": 5},
                {"path": "/dev/disk", "type": "c", "major": 1, "minor": 3},
            ],
            "resources": {"devices": [{"allow": True, "type": "c", "major": 1, "minor": 5, "access": "rw"}]},
        },
    }
    before = copy.deepcopy(spec)
    disk = agent_pb2.Device(id="02", type="blk", container_path="/dev/disk")
    messages = [message(f"{HOST}=05"), disk]
    first, second = (
        adapt_devices(order, spec, DeviceContext(bus.guest.hotplug)) for order in (messages, messages[::-1])
    )
    assert first == second
    assert spec == before
    adapted: Any = first.spec
    assert adapted["linux"]["devices"] == [
        {"path": "/dev/vfio/7", "type": "c", "major": 1, "minor": 3},
        {"path": "/dev/disk", "type": "c", "major": 1, "minor": 5},
    ]
    rules = adapted["linux"]["resources"]["devices"]
    assert rules[0] == {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rw"}
    assert [(rule["major"], rule["minor"]) for rule in rules[1:]] == [(1, 3), (1, 5)]
    # the container's own environment and an exec's, though the disk came last
    translated = [f"PCIDEVICE_X={GUEST}", f'PCIDEVICE_X_INFO={{"{GUEST}":1}}', "A=1"]
    assert adapted["process"]["env"] == translated
    assert translate_process({"env": env}, first.pci)["env"] == translated
    # the next container may have the same device
    assert adapt_devices([message(f"{HOST}=05"), disk], spec, DeviceContext(bus.guest.hotplug)) == first


ROOTS = Roots()
FOLDER = f"/{PCI}/{GUEST}"
CSS = "/devices/css0"


@pytest.mark.parametrize(
    ("wanted", "event", "found"),
    [
        (PciFunction(ROOTS, FOLDER, "05"), Uevent("add", FOLDER, "pci", "", ""), True),
        (PciFunction(ROOTS, FOLDER, "05"), Uevent("add", f"{FOLDER}/virtio1", "virtio", "", ""), False),
        (VfioGroup(ROOTS, 1), Uevent("add", "/devices/virtual/vfio/1", "vfio", "vfio/1", ""), True),
        (VfioGroup(ROOTS, 1), Uevent("add", "/devices/virtual/vfio/22", "vfio", "vfio/22", ""), False),
        (VfioGroup(ROOTS, 22), Uevent("add", "/devices/virtual/vfio/22", "vfio", "vfio/22", ""), True),
        (VfioGroup(ROOTS, 2), Uevent("add", "/devices/virtual/vfio/22", "vfio", "vfio/22", ""), False),
        (ApQueue(ROOTS, "0a", "0010"), Uevent("add", "/devices/ap/card0a/0a.0010", "ap", "", ""), True),
        (ApQueue(ROOTS, "0a", "0010"), Uevent("add", "/devices/ap/card0a/0a.0011", "ap", "", ""), False),
        (ApQueue(ROOTS, "0a", "0010"), Uevent("add", "/devices/ap/card0a", "ap", "", ""), False),
    ],
)
def test_matchers(wanted: PciFunction | VfioGroup | ApQueue, event: Uevent, found: bool) -> None:
    assert bool(wanted.match(event)) is found


@pytest.mark.parametrize(
    ("devpath", "found"),
    [
        (f"{CSS}/0.0.0002/0.0.0100/virtio0/block/vda", True),
        (f"{CSS}/0.0.0002/0.0.0100/virtio99/block/vda", True),
        (f"{CSS}/0.0.0002/0.0.0100/virtio0/block/vda/vda1", False),
        (f"{CSS}/0.0.0002/0.0.0101/virtio0/block/vda", False),
        ("/0.0.0002/0.0.0100/virtio0/block/vda", False),
        (f"{CSS}/0.0.0002/0.0.0100/virtio/block/vda", False),
        (f"{CSS}/0.0.0002/0.0.0100/virtio0/vda", False),
        (f"{CSS}/1.0.0002/0.0.0100/virtio0/block/vda", False),
        (f"{CSS}/0.4.0002/0.0.0100/virtio0/block/vda", False),
        (f"{CSS}/0.0.10002/0.0.0100/virtio0/block/vda", False),
    ],
)
def test_ccw_matcher(devpath: str, found: bool) -> None:
    event = Uevent("add", devpath, "block", devpath.rpartition("/")[2], "")
    assert bool(CcwBlock(ROOTS, "0.0.0100").match(event)) is found


def test_ccw_disk(guest: FakeGuest) -> None:
    device = agent_pb2.Device(id="0.0.a1", type="blk-ccw", container_path="/dev/x")
    with pytest.raises(Unsupported, match="no channel subsystem"):
        updates(guest, device)
    guest.add_folder("devices/css0/0.0.0002/0.0.00a1/virtio3/block/vda")
    (guest.dev / "vda").symlink_to("/dev/null")
    assert updates(guest, device) == [SpecUpdate("/dev/x", NULL)]


@pytest.mark.parametrize("text", ["", "0.0", "1.0.0001", "0.4.0001", "0.0.10000", "0.0.x", "0.0.1.2", "0.0.-1"])
def test_what_is_no_ccw_device(text: str) -> None:
    with pytest.raises(InvalidDevice):
        ccw.parse_id(text)
    assert ccw.parse_id("0.3.FF") == "0.3.00ff"


def test_ap_queues(guest: FakeGuest, monkeypatch: pytest.MonkeyPatch) -> None:
    (guest.dev / "z90crypt").symlink_to("/dev/null")
    device = message("0a.0010", "0a.0011", kind="vfio-ap", path="/dev/vfio/1")
    with pytest.raises(Unsupported, match="no AP bus"):
        updates(guest, device)
    scans = []

    def scan(path: str, text: str) -> None:
        assert guest.uevents.waiting == 1, "the waiter is there before the scan"
        scans.append((os.path.relpath(path, guest.sys), text))
        guest.announce(f"/devices/ap/card0a/0a.00{10 + len(scans) - 1}", "ap", "")

    monkeypatch.setattr(hotplug, "write_text", scan)
    expected = [SpecUpdate("/dev/vfio/1", NULL, "/dev/z90crypt")]
    assert updates(guest, device) == expected
    assert scans == [("bus/ap/scans", "1")] * 2
    for queue in ("0a.0010", "0a.0011"):
        guest.add_folder(f"devices/ap/card0a/{queue}")
    device.type = "vfio-ap-cold"
    assert updates(guest, device) == expected
    assert len(scans) == 2
    assert guest.uevents.waiting == 0


@pytest.mark.parametrize("text", ["", "a.0010", "0a.10", "0a:0010", "0A.0010", "0a.0010.1"])
def test_what_is_no_ap_queue(guest: FakeGuest, text: str) -> None:
    with pytest.raises(InvalidDevice, match="no AP queue"):
        ap.parse_queue(text)
    with pytest.raises(InvalidDevice, match="names no queue"):
        updates(guest, message(kind="vfio-ap"))

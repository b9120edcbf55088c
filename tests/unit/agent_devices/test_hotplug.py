"""Waiting for devices: there already, coming later, look-alikes, never."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kata.agent.devices.errors import DeviceError, DeviceTimeout, InvalidDevice
from kata.agent.devices.wanted import NamedBlock, PciBlock, PciNetwork, Roots, ScsiBlock
from kata.linux.uevent import Uevent
from tests.unit.agent_devices.fakes import PCI, FakeGuest

DISK = f"/{PCI}/0000:00:02.0/virtio1/block/vda"


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[FakeGuest]:
    with FakeGuest(tmp_path) as made:
        yield made


def in_thread(call: Callable[[], str]) -> Callable[[], str]:
    """Run a wait in a thread; the function returned gives its result."""
    results: list[str] = []
    thread = threading.Thread(target=lambda: results.append(call()))
    thread.start()

    def result() -> str:
        thread.join(10)
        assert not thread.is_alive()
        return results[0]

    return result


def await_waiter(guest: FakeGuest, count: int = 1) -> None:
    deadline = time.monotonic() + 10
    while guest.uevents.waiting != count:
        assert time.monotonic() < deadline
        os.sched_yield()


def test_a_disk_that_is_there(guest: FakeGuest) -> None:
    guest.add_folder(DISK[1:])
    guest.add_node("vda")
    assert guest.hotplug.find_pci_block("02") == f"{guest.dev}/vda"
    assert guest.uevents.waiting == 0


def test_a_disk_that_comes(guest: FakeGuest) -> None:
    result = in_thread(lambda: guest.hotplug.find_pci_block("02"))
    await_waiter(guest)
    guest.announce("/devices/other", "usb")
    guest.announce(DISK)
    assert result() == f"{guest.dev}/vda"
    assert guest.uevents.waiting == 0


def test_two_wait_for_two_disks(guest: FakeGuest) -> None:
    first = in_thread(lambda: guest.hotplug.find_pci_block("02"))
    second = in_thread(lambda: guest.hotplug.find_pci_block("03"))
    await_waiter(guest, 2)
    guest.announce(f"/{PCI}/0000:00:03.0/virtio2/block/vdb")
    guest.announce(DISK)
    assert (first(), second()) == (f"{guest.dev}/vda", f"{guest.dev}/vdb")


def test_two_wait_for_one_disk(guest: FakeGuest) -> None:
    waits = [in_thread(lambda: guest.hotplug.find_pci_block("02")) for _ in range(2)]
    await_waiter(guest, 2)
    guest.announce(DISK)
    assert [wait() for wait in waits] == [f"{guest.dev}/vda"] * 2


def test_events_were_lost_so_sysfs_is_asked_again(guest: FakeGuest) -> None:
    result = in_thread(lambda: guest.hotplug.find_pci_block("02"))
    await_waiter(guest)
    guest.add_folder(DISK[1:])
    guest.add_node("vda")
    guest.source.send(None)
    assert result() == f"{guest.dev}/vda"


def test_nothing_comes_and_nothing_is_kept(tmp_path: Path) -> None:
    with FakeGuest(tmp_path, timeout=0.05) as guest:
        for _ in range(3):
            with pytest.raises(DeviceTimeout, match=r"Timeout after 0.05 s waiting for a virtio disk at PCI path 02"):
                guest.hotplug.find_pci_block("02")
        assert guest.uevents.waiting == 0
        guest.announce(DISK)  # and later events harm nobody
        guest.add_folder(DISK[1:])
        guest.add_node("vda")
        assert guest.hotplug.find_pci_block("02")


def test_sysfs_before_the_node_is_not_enough(tmp_path: Path) -> None:
    with FakeGuest(tmp_path, timeout=0.05) as guest:
        guest.add_folder(DISK[1:])
        with pytest.raises(DeviceTimeout):
            guest.hotplug.find_pci_block("02")


def test_a_disk_that_was_there_once_is_not_found(tmp_path: Path) -> None:
    with FakeGuest(tmp_path, timeout=0.5) as guest:
        result = in_thread(lambda: guest.hotplug.find_pci_block("03"))
        await_waiter(guest)
        guest.announce(DISK)
        guest.source.send(Uevent("remove", DISK, "block", "vda"))
        guest.announce(f"/{PCI}/0000:00:03.0/virtio2/block/vdb")
        result()  # so the two before have been read as well
        with pytest.raises(DeviceTimeout):
            guest.hotplug.find_pci_block("02")


def test_other_actions_than_add_wake_nobody(guest: FakeGuest) -> None:
    result = in_thread(lambda: guest.hotplug.find_pci_block("02"))
    await_waiter(guest)
    for action in ("change", "bind", "move", "online", ""):
        guest.source.send(Uevent(action, DISK, "block", "wrong"))
    guest.announce(DISK)
    assert result() == f"{guest.dev}/vda"


def test_an_event_at_the_very_end_of_the_wait(tmp_path: Path) -> None:
    """Whichever is first, the wait has one end, and no waiter stays behind (upstream's agent panics or leaks here)."""
    ends = []
    with FakeGuest(tmp_path, timeout=0.002) as guest:
        for _ in range(100):
            sender = threading.Thread(target=guest.announce, args=(DISK,))
            sender.start()
            try:
                ends.append(guest.hotplug.find_pci_block("02"))
            except DeviceTimeout:
                ends.append("")
            sender.join(10)
        assert guest.uevents.waiting == 0
    assert set(ends) <= {"", f"{guest.dev}/vda"}


def test_scsi_hosts_are_scanned_after_the_waiter_is_there(guest: FakeGuest) -> None:
    scans = [guest.add_folder(f"class/scsi_host/host{number}") / "scan" for number in (0, 6)]
    for scan in scans:
        scan.touch()
    result = in_thread(lambda: guest.hotplug.find_scsi_block("1:300"))
    await_waiter(guest)
    guest.announce(f"/{PCI}/0000:00:05.0/virtio3/host6/target6:0:1/6:0:1:300/block/sdb")
    assert result() == f"{guest.dev}/sdb"
    assert [scan.read_text() for scan in scans] == ["0 1 300"] * 2


def test_scsi_disk_that_is_there_is_not_scanned_for(guest: FakeGuest) -> None:
    disk = guest.add_folder(f"{PCI}/0000:00:05.0/virtio3/host0/target0:0:1/0:0:1:2")
    (disk / "block/sda").mkdir(parents=True)
    entry = disk / "scsi_device/0:0:1:2"
    entry.mkdir(parents=True)
    (entry / "device").symlink_to(disk)
    (guest.add_folder("class/scsi_device") / "0:0:1:2").symlink_to(entry)
    guest.add_node("sda")
    assert guest.hotplug.find_scsi_block("1:2") == f"{guest.dev}/sda"


def test_no_scsi_host(guest: FakeGuest) -> None:
    with pytest.raises(DeviceError, match="cannot scan"):
        guest.hotplug.find_scsi_block("0:0")
    guest.add_folder("class/scsi_host")
    with pytest.raises(DeviceError, match="no SCSI host"):
        guest.hotplug.find_scsi_block("0:0")
    assert guest.uevents.waiting == 0


@pytest.mark.parametrize("address", ["", "1", "1:", ":1", "1:2:3", "a:0", "-1:0", "1: 2"])
def test_bad_scsi_addresses(guest: FakeGuest, address: str) -> None:
    with pytest.raises(InvalidDevice):
        guest.hotplug.find_scsi_block(address)


@pytest.mark.parametrize("node", ["", "vda", "/dev/", "/dev/a/b", "/dev/..", "/tmp/vda", "/dev/../etc"])
def test_bad_names(guest: FakeGuest, node: str) -> None:
    with pytest.raises(InvalidDevice):
        guest.hotplug.find_named_block(node)


def test_drivers_are_loaded_before_the_wait(tmp_path: Path) -> None:
    with FakeGuest(tmp_path, timeout=0.0) as guest:
        waits: list[tuple[Callable[[str], str], str, list[str]]] = [
            (guest.hotplug.find_pci_block, "02", ["virtio_blk"]),
            (guest.hotplug.find_pci_network, "02", ["virtio_net"]),
            (guest.hotplug.find_named_block, "/dev/pmem0", ["nd_pmem", "nfit", "virtio_pmem"]),
            (guest.hotplug.find_named_block, "/dev/vdb", []),
        ]
        for wait, where, drivers in waits:
            guest.drivers.clear()
            with pytest.raises(DeviceTimeout):
                wait(where)
            assert guest.drivers == drivers
        guest.drivers.clear()
        with pytest.raises(DeviceError, match="SCSI host"):
            guest.hotplug.find_scsi_block("0:0")
        assert guest.drivers == ["virtio_scsi", "sd_mod"]


def test_named_disk(guest: FakeGuest) -> None:
    result = in_thread(lambda: guest.hotplug.find_named_block("/dev/vdb"))
    await_waiter(guest)
    guest.announce("/devices/platform/a0003e00.virtio_mmio/virtio3/block/vda")
    guest.announce("/devices/platform/a0003e00.virtio_mmio/virtio4/block/vdb")
    assert result() == f"{guest.dev}/vdb"
    guest.add_folder("class/block/pmem0")
    guest.add_node("pmem0")
    assert guest.hotplug.find_named_block("/dev/pmem0") == f"{guest.dev}/pmem0"


def test_network_interface(guest: FakeGuest) -> None:
    result = in_thread(lambda: guest.hotplug.find_pci_network("02"))
    await_waiter(guest)
    guest.announce(f"/{PCI}/0000:00:02.0/virtio0/net/eth0", "net")
    assert result() == "eth0"
    guest.add_folder(f"{PCI}/0000:00:03.0/net/eth7")
    assert guest.hotplug.find_pci_network("03") == "eth7"


def test_memory_is_brought_online(guest: FakeGuest) -> None:
    online = guest.add_folder("devices/system/memory/memory32") / "online"
    online.write_text("0")
    outside = guest.add_folder("devices/elsewhere") / "online"
    outside.write_text("0")
    result = in_thread(lambda: guest.hotplug.find_pci_block("02"))
    await_waiter(guest)
    guest.announce("/devices/elsewhere", "memory")
    guest.announce("/devices/system/memory/../../elsewhere", "memory")
    guest.announce("/devices/system/memory/memory32", "memory")
    guest.announce(DISK)
    result()
    assert (online.read_text(), outside.read_text()) == ("1", "0")


ROOTS = Roots()
BLK = PciBlock(ROOTS, "/d/0000:00:0a.0", "0a")
SCSI = ScsiBlock(ROOTS, 0, 2)
NAMED = NamedBlock(ROOTS, "pmem0")
NET = PciNetwork(ROOTS, "/d/0000:00:02.0", "02")


@pytest.mark.parametrize(
    ("wanted", "devpath", "subsystem", "name", "found"),
    [
        (BLK, "/d/0000:00:0a.0/virtio4/block/vda", "block", "vda", True),
        (BLK, "/d/0000:00:0a.0/virtio0/block/vda", "block", "vda", True),
        (BLK, "/d/0000:00:0a.0/virtio4/block/vda/vda91", "block", "vda91", False),
        (BLK, "/d/0000:00:0a.0/virtio99/block/vdzz", "block", "vdzz", True),
        (BLK, "/d/0000:00:0a.0/virtio4/block/vda/vda1", "block", "vda1", False),
        (BLK, "/d/0000:00:0a.0/virtio4/block/vda", "block", "", False),
        (BLK, "/d/0000:00:0a.0/virtio4/block/vda", "block", "vdb", False),
        (BLK, "/d/0000:00:0a.0/virtio4/block/vda", "net", "vda", False),
        (BLK, "/d/0000:00:0a.0/virtio/block/vda", "block", "vda", False),
        (BLK, "/d/0000:00:0a.0/virtiox/block/vda", "block", "vda", False),
        (BLK, "/d/0000:00:0a.0/block/vda", "block", "vda", False),
        (BLK, "/d/0000:00:0a.0/0000:01:0b.0/virtio4/block/vda", "block", "vda", False),
        (BLK, "/d/0000:00:0a.01/virtio4/block/vda", "block", "vda", False),
        (BLK, "/d/0000a00:0ax0/virtio4/block/vda", "block", "vda", False),
        (SCSI, "/d/virtio0/host0/target0:0:0/0:0:0:2/block/sda", "block", "sda", True),
        (SCSI, "/d/virtio0/host7/target7:0:0/7:0:0:2/block/sda", "block", "sda", True),
        (SCSI, "/d/virtio0/host0/target0:0:2/0:0:2:0/block/sda", "block", "sda", False),
        (SCSI, "/d/virtio0/host0/target0:0:0/0:0:0:2/block/sda/sda1", "block", "sda1", False),
        (SCSI, "/d/virtio0/host0/target0:0:0/0:0:0:0/block/sda", "block", "sda", False),
        (SCSI, "/d/virtio0/host0/target0:0:0/0:0:0:22/block/sda", "block", "sda", False),
        (SCSI, "/d/virtio0/host0/target0:0:0/0:0:0:2/block/sda", "block", "", False),
        (SCSI, "/d/virtio0/host0/target0:0:0/0:0:0:2/block/sda", "scsi", "sda", False),
        (SCSI, "/d/ata1/host0/target0:0:0/0:0:0:2/block/sda", "block", "sda", False),
        (SCSI, "/d/virtio0/host0/target0:1:0/0:1:0:2/block/sda", "block", "sda", False),
        (NAMED, "/devices/LNXSYSTM:00/x/ndbus0/region0/namespace0.0/block/pmem0", "block", "pmem0", True),
        (NAMED, "/devices/LNXSYSTM:00/x/ndbus0/region0/namespace0.0/block/pmem1", "block", "pmem1", False),
        (NAMED, "/devices/LNXSYSTM:00/x/block/pmem0/pmem0p1", "block", "pmem0p1", False),
        (NAMED, "/devices/platform/x.virtio_mmio/virtio3/block/xpmem0", "block", "xpmem0", False),
        (NAMED, "/devices/LNXSYSTM:00/x/block/pmem0", "net", "pmem0", False),
        (NAMED, "/devices/LNXSYSTM:00/x/block/pmem0", "block", "", False),
        (NET, "/d/0000:00:02.0/virtio0/net/eth0", "net", "eth0", True),
        (NET, "/d/0000:00:02.0/virtio0/net/eth0", "block", "eth0", False),
        (NET, "/d/0000:00:02.0/net/eth0", "net", "eth0", True),
        (NET, "/d/0000:00:02.01/net/eth0", "net", "eth0", False),
        (NET, "/d/0000:00:02.0/net/eth0/queues", "net", "eth0", False),
        (NET, "/d/0000:00:02.0/net/eth0", "net", "", False),
    ],
)
def test_matchers(wanted: PciBlock, devpath: str, subsystem: str, name: str, found: bool) -> None:
    event = Uevent("add", devpath, subsystem, name, name if subsystem == "net" else "")
    assert wanted.match(event) == (name if found else "")

"""Disks of a sandbox: one a device however many use it, marked while it is there, and gone when nobody does."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from kata import paths
from kata.hypervisor.errors import HypervisorError, NoPlaceError
from kata.hypervisor.machine import Disk, DiskAddress
from kata.sandbox.disks import Disks, empty_dir_plug, plug_of
from kata.sandbox.errors import ConfigError, ConflictError, NotFoundError
from kata.sandbox.reconcile import remove_vm_directory
from kata.sandbox.updates import Plug
from kata.storage import directvolumes
from kata.storage.errors import VolumeError

MIB = 1 << 20


class FakeMachine:
    """Has `ports` places for virtio-blk disks and any number for SCSI disks."""

    def __init__(self, ports: int = 1) -> None:
        self.ports = ports
        self.disks: dict[str, Disk] = {}
        self.sizes: dict[str, int] = {}
        self.added = 0
        self.gate = threading.Event()
        self.gate.set()
        self.fail = False

    def add_disk(self, disk: Disk) -> DiskAddress:
        self.gate.wait(10)
        if self.fail:
            raise HypervisorError("no")
        if disk.driver == "blk" and sum(found.driver == "blk" for found in self.disks.values()) >= self.ports:
            raise NoPlaceError("full")
        assert disk.serial not in self.disks
        self.disks[disk.serial] = disk
        self.added += 1
        return DiskAddress(disk.driver, "x")

    def remove_disk(self, serial: str) -> None:
        del self.disks[serial]

    def resize_disk(self, serial: str, size: int) -> None:
        self.sizes[serial] = size


@pytest.fixture
def machine() -> FakeMachine:
    return FakeMachine()


@pytest.fixture
def disks(machine: FakeMachine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Disks:
    monkeypatch.setenv("KATA_STATE_DIR", str(tmp_path / "state"))
    return Disks("box", machine, ("blk", "scsi"))


def plug(tmp_path: Path, name: str = "disk", *, readonly: bool = False, volume: str = "") -> Plug:
    path = tmp_path / name
    if not path.exists():
        path.write_bytes(bytes(MIB))
    return plug_of(str(path), readonly=readonly, volume=volume)


def test_one_disk_for_all_who_use_it(disks: Disks, machine: FakeMachine, tmp_path: Path) -> None:
    first = plug(tmp_path)
    (tmp_path / "other-name").hardlink_to(tmp_path / "disk")
    second = plug(tmp_path, "other-name", readonly=True)
    assert first.serial == second.serial and len(first.serial) == 20
    disks.acquire(first)
    disks.acquire(second)
    assert machine.added == 1
    disks.release(first.serial)
    assert machine.disks
    disks.release(first.serial)
    disks.release(first.serial)
    assert machine.disks == {}
    disks.acquire(second)
    with pytest.raises(ConflictError, match="read-only already"):
        disks.acquire(first)


def test_the_disk_of_an_empty_directory_lasts_until_the_end(disks: Disks, machine: FakeMachine, tmp_path: Path) -> None:
    (folder := tmp_path / "scratch").mkdir()
    wanted = empty_dir_plug(str(folder))
    for _ in range(2):
        disks.acquire(wanted)
        [disk] = machine.disks.values()
        assert (disk.path, disk.readonly) == (f"{folder}/disk.img", False)
        inode = (folder / "disk.img").stat().st_ino
        disks.release(wanted.serial)
        assert machine.disks == {} and (folder / "disk.img").stat().st_ino == inode
    disks.close()
    assert list(folder.iterdir()) == []
    (folder / "disk.img").mkdir()
    with pytest.raises(VolumeError, match="no disk can be made"):
        disks.acquire(wanted)
    disks.close()
    with pytest.raises(ConfigError, match="emptyDir"):
        empty_dir_plug(str(tmp_path / "missing"))


def test_who_clears_up_after_a_sandbox_removes_its_images(disks: Disks, tmp_path: Path) -> None:
    (folder := tmp_path / "scratch").mkdir()
    disks.acquire(empty_dir_plug(str(folder)))
    assert list(folder.iterdir()) != []
    remove_vm_directory("box")
    assert list(folder.iterdir()) == []
    assert not (paths.vm_dir() / "box").exists()


def test_scsi_takes_what_finds_no_port(disks: Disks, machine: FakeMachine, tmp_path: Path) -> None:
    for name in "abc":
        disks.acquire(plug(tmp_path, name))
    assert [disk.driver for disk in machine.disks.values()] == ["blk", "scsi", "scsi"]


def test_no_place_at_all_is_an_error(machine: FakeMachine, tmp_path: Path) -> None:
    machine.ports = 0
    disks = Disks("box", machine, ("blk",))
    with pytest.raises(NoPlaceError):
        disks.acquire(plug(tmp_path))
    machine.ports = 1
    disks.acquire(plug(tmp_path))


def test_a_volume_is_marked_while_it_is_plugged_in(disks: Disks, machine: FakeMachine, tmp_path: Path) -> None:
    directvolumes.add("/volume", b'{"volume-type": "block", "device": "/d", "fstype": "ext4"}')
    wanted = plug(tmp_path, volume="/volume")
    disks.acquire(wanted)
    assert directvolumes.sandboxes("/volume") == ["box"]
    assert disks.volume("/volume") == wanted
    disks.release(wanted.serial)
    assert directvolumes.sandboxes("/volume") == []
    with pytest.raises(NotFoundError):
        disks.volume("/volume")
    machine.fail = True
    with pytest.raises(HypervisorError):
        disks.acquire(wanted)
    assert directvolumes.sandboxes("/volume") == []


def test_the_end_of_the_machine_takes_marks_and_no_disks(disks: Disks, machine: FakeMachine, tmp_path: Path) -> None:
    directvolumes.add("/volume", b'{"volume-type": "block", "device": "/d", "fstype": "ext4"}')
    disks.acquire(plug(tmp_path, volume="/volume"))
    disks.close()
    assert directvolumes.sandboxes("/volume") == []
    assert machine.disks, "the machine is gone: nobody asks it"
    disks.release(plug(tmp_path).serial)


def test_who_comes_meanwhile_waits(disks: Disks, machine: FakeMachine, tmp_path: Path) -> None:
    wanted = plug(tmp_path)
    machine.gate.clear()
    threads = [threading.Thread(target=disks.acquire, args=(wanted,)) for _ in range(5)]
    for thread in threads:
        thread.start()
    machine.gate.set()
    for thread in threads:
        thread.join(10)
    assert machine.added == 1
    for _ in threads:
        assert machine.disks
        disks.release(wanted.serial)
    assert machine.disks == {}


def test_growing(disks: Disks, machine: FakeMachine, tmp_path: Path) -> None:
    wanted = plug(tmp_path)
    disks.acquire(wanted)
    disks.grow(wanted, 3 * MIB)
    assert machine.sizes == {wanted.serial: 3 * MIB}
    disks.grow(wanted, 1)  # never smaller than it is
    assert machine.sizes == {wanted.serial: MIB}
    with pytest.raises(ConfigError, match="read-only"):
        disks.grow(wanted._replace(readonly=True), 3 * MIB)


def test_what_is_no_disk(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing", Path("/dev/null")):
        with pytest.raises(ConfigError, match=str(path)):
            plug_of(str(path), readonly=True)

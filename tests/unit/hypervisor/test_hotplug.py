"""Devices that come to a QEMU and leave it, against a QEMU of ours that refuses or stays silent at each step."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from kata.hypervisor.errors import (
    HypervisorError,
    NoPlaceError,
    QmpClosedError,
    QmpCommandError,
    QmpProtocolError,
    QmpTimeoutError,
    SpecError,
)
from kata.hypervisor.machine import Disk, MachineSpec, TapNic
from kata.hypervisor.qemu import files
from kata.hypervisor.qemu.hotplug import GONE, REFUSED, Hotplug, PciDevice
from kata.hypervisor.qemu.qmp import Event, QmpClient

STEPS = ("add-fd", "blockdev-add", "device_add")
WAY_BACK = ("device_del", "blockdev-del", "remove-fd")


class FakeQemu:
    """Keeps what a QEMU would keep. `fail` names commands that are refused, `silent` those that get no answer."""

    def __init__(self) -> None:
        self.fdsets: set[int] = set()
        self.nodes: dict[str, dict[str, Any]] = {}
        self.devices: dict[str, dict[str, Any]] = {}
        self.back_ends: dict[str, dict[str, Any]] = {}
        self.named_fds: set[str] = set()
        self.fail: set[str] = set()
        self.silent: set[str] = set()
        self.said: list[str] = []
        self.events: list[Event] = []
        self.lets_go = True
        self.fd_targets: list[str] = []
        self._next_set = 7
        self.spares: dict[str, str] = {}

    def execute(self, command: str, arguments: Any = None, *, fds: Sequence[int] = (), timeout: float = 10.0) -> object:
        assert timeout > 0
        self.said.append(command)
        if command in self.fail:
            raise QmpCommandError(command, "GenericError", "no")
        answer = getattr(self, command.replace("-", "_"))(arguments, fds)
        if command in self.silent:
            raise QmpTimeoutError(f"QEMU did not answer {command}")
        return answer

    def wait_event(self, *names: str, timeout: float, accept: Any) -> Event:
        for event in self.events:
            if event.name in names and accept(event):
                self.events.remove(event)
                return event
        raise QmpTimeoutError("QEMU did not report it")

    def add_fd(self, arguments: Any, fds: Sequence[int]) -> object:
        self.fd_targets += [os.readlink(f"/proc/self/fd/{fd}") for fd in fds]
        self._next_set += 1
        self.fdsets.add(self._next_set)
        return {"fdset-id": self._next_set, "fd": 30}

    def remove_fd(self, arguments: Any, _fds: Sequence[int]) -> object:
        self.fdsets.remove(arguments["fdset-id"])
        return {}

    def blockdev_add(self, arguments: Any, _fds: Sequence[int]) -> object:
        file = arguments.get("file", arguments)
        assert int(file["filename"].removeprefix("/dev/fdset/")) in self.fdsets
        self.nodes[arguments["node-name"]] = arguments
        return {}

    def query_named_block_nodes(self, _arguments: Any, _fds: Sequence[int]) -> object:
        return [{"node-name": name} for name in self.nodes]

    def blockdev_del(self, arguments: Any, _fds: Sequence[int]) -> object:
        if arguments["node-name"] not in self.nodes:
            raise QmpCommandError("blockdev-del", "GenericError", "no such node")
        assert not [device for device in self.devices.values() if device.get("drive") == arguments["node-name"]]
        assert arguments["node-name"] not in self.spares.values()
        del self.nodes[arguments["node-name"]]
        return {}

    def blockdev_reopen(self, arguments: Any, _fds: Sequence[int]) -> object:
        [node] = arguments["options"]
        assert node["driver"] == "raw" and node["read-only"]
        assert node["file"] in self.nodes or node["file"].startswith("empty")
        self.spares[node["node-name"]] = node["file"]
        return {}

    def chardev_add(self, arguments: Any, _fds: Sequence[int]) -> object:
        self.named_fds.remove(arguments["backend"]["data"]["addr"]["data"]["str"])
        return {}

    def getfd(self, arguments: Any, fds: Sequence[int]) -> object:
        assert len(fds) == 1
        self.named_fds.add(arguments["fdname"])
        return {}

    def closefd(self, arguments: Any, _fds: Sequence[int]) -> object:
        if arguments["fdname"] not in self.named_fds:
            raise QmpCommandError("closefd", "GenericError", "not found")
        self.named_fds.remove(arguments["fdname"])
        return {}

    def netdev_add(self, arguments: Any, _fds: Sequence[int]) -> object:
        taken = set(":".join(filter(None, (arguments["fds"], arguments.get("vhostfds")))).split(":"))
        assert taken <= self.named_fds
        self.named_fds -= taken
        self.back_ends[arguments["id"]] = arguments
        return {}

    def netdev_del(self, arguments: Any, _fds: Sequence[int]) -> object:
        if arguments["id"] not in self.back_ends:
            raise QmpCommandError("netdev_del", "DeviceNotFound", "no such back end")
        assert not [device for device in self.devices.values() if device.get("netdev") == arguments["id"]]
        del self.back_ends[arguments["id"]]
        return {}

    def device_add(self, arguments: Any, _fds: Sequence[int]) -> object:
        self.devices[arguments["id"]] = arguments
        return {}

    def device_del(self, arguments: Any, _fds: Sequence[int]) -> object:
        name = arguments["id"]
        if name not in self.devices:
            raise QmpCommandError("device_del", "DeviceNotFound", "no such device")
        if self.lets_go:
            self.let_go(name)
        return {}

    def let_go(self, name: str) -> None:
        del self.devices[name]
        self.events.append(Event(GONE, {"path": f"/machine/peripheral/{name}/virtio-backend"}, 0.0))
        self.events.append(Event(GONE, {"device": name, "path": f"/machine/peripheral/{name}"}, 0.0))

    def is_clean(self) -> bool:
        return not (self.fdsets or self.nodes or self.devices or self.back_ends or self.named_fds)


@pytest.fixture
def qemu() -> FakeQemu:
    return FakeQemu()


def hotplug(qemu: FakeQemu, **changes: Any) -> Hotplug:
    values: dict[str, Any] = {"pcie_root_ports": 2, "scsi_controller": True, **changes}
    spec = MachineSpec(
        sandbox_id="a", directory="/run/a", kernel="/k", initrd=None, image="/i", disks=(Disk("/c", "cold"),), **values
    )
    return Hotplug(cast("QmpClient", qemu), spec)


@pytest.fixture
def image(tmp_path: Path) -> str:
    (tmp_path / "image").write_bytes(bytes(512))
    return str(tmp_path / "image")


def test_a_disk_comes_and_goes(qemu: FakeQemu, image: str) -> None:
    machine = hotplug(qemu)
    address = machine.add_disk(Disk(image, "data", readonly=False))
    assert address == machine.address("data") == ("blk", "1d.0/00")
    assert qemu.fd_targets == [image]
    [(name, device)] = qemu.devices.items()
    assert device == {
        "driver": "virtio-blk-pci",
        "disable-legacy": "on",
        "drive": name,
        "serial": "data",
        "bus": "port0",
        "addr": "0",
        "id": name,
    }
    assert qemu.nodes[name]["read-only"] is False
    machine.remove("data")
    assert qemu.is_clean()
    assert machine.address("data") is None
    assert tuple(qemu.said) == (*STEPS, *WAY_BACK)


def test_scsi_disks_take_ids_beyond_those_of_the_spec(qemu: FakeQemu, image: str) -> None:
    machine = hotplug(qemu, pcie_root_ports=0)
    assert [machine.add_disk(Disk(image, name, driver="scsi")) for name in "ab"] == [("scsi", "20:0"), ("scsi", "21:0")]
    machine.remove("a")
    assert machine.add_disk(Disk(image, "c", driver="scsi")) == ("scsi", "20:0")
    assert len(set(qemu.devices) | {"hot1"}) == 3, "an id is never used twice"


def test_any_pci_device(qemu: FakeQemu) -> None:
    machine = hotplug(qemu)
    assert machine.add_pci(PciDevice("nic", "e1000e", {"mac": "02:00:00:00:00:01"})) == "1d.0/00"
    assert machine.add_pci(PciDevice("other", "e1000e")) == "1d.1/00"
    assert [device["bus"] for device in qemu.devices.values()] == ["port0", "port1"]
    machine.remove("nic")
    assert machine.add_pci(PciDevice("nic", "e1000e")) == "1d.0/00"


MAC = "02:00:00:00:00:0A"


def test_a_nic_comes_and_goes(qemu: FakeQemu, image: str) -> None:
    machine = hotplug(qemu)
    with open(image) as first, open(image) as second:
        assert machine.add_nic(TapNic(MAC, (first.fileno(), second.fileno()), 1400)) == "1d.0/00"
    assert qemu.said == ["getfd", "getfd", "netdev_add", "device_add"]
    back_end = {"type": "tap", "id": "hot1", "fds": "hot1-tap0:hot1-tap1", "vhost": False}
    assert qemu.back_ends == {"hot1": back_end}
    assert qemu.devices["hot1"] == {
        "driver": "virtio-net-pci",
        "disable-legacy": "on",
        "romfile": "",
        "netdev": "hot1",
        "mac": MAC.lower(),
        "host_mtu": 1400,
        "mq": True,
        "vectors": 6,
        "bus": "port0",
        "addr": "0",
        "id": "hot1",
    }
    with open(image) as file, pytest.raises(HypervisorError, match="already"):
        machine.add_nic(TapNic(MAC, (file.fileno(),)))
    machine.remove_nic(MAC)
    assert qemu.is_clean() and machine.names() == ()
    assert qemu.said[4:] == ["device_del", "netdev_del"]


def test_a_nic_with_vhost(qemu: FakeQemu, image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "VHOST_NET", "/dev/null")
    with open(image) as file:
        hotplug(qemu).add_nic(TapNic(MAC, (file.fileno(),), vhost=True))
    assert qemu.back_ends["hot1"] == {
        "type": "tap",
        "id": "hot1",
        "fds": "hot1-tap0",
        "vhost": True,
        "vhostfds": "hot1-vhost0",
    }


@pytest.mark.parametrize("how", ["fail", "silent"])
@pytest.mark.parametrize("step", ["getfd", "netdev_add", "device_add"])
def test_a_nic_that_does_not_come(qemu: FakeQemu, image: str, step: str, how: str) -> None:
    machine = hotplug(qemu)
    getattr(qemu, how).add(step)
    with open(image) as file, pytest.raises((QmpCommandError, QmpTimeoutError), match=step):
        machine.add_nic(TapNic(MAC, (file.fileno(),)))
    assert qemu.is_clean() and machine.names() == ()


def test_a_nic_that_no_machine_can_have(qemu: FakeQemu) -> None:
    with pytest.raises(SpecError, match="no tap"):
        hotplug(qemu).add_nic(TapNic(MAC, ()))
    with pytest.raises(NoPlaceError, match="microvm takes no devices"):
        hotplug(qemu, machine_type="microvm", scsi_controller=False).add_nic(TapNic(MAC, (0,)))
    assert qemu.said == []


def test_a_nic_from_the_start_loses_its_link(qemu: FakeQemu) -> None:
    machine = hotplug(qemu, nics=(TapNic("02:00:00:00:00:01", (3,)), TapNic(MAC, (4,))))
    qemu.back_ends = {"tap0": {}, "tap1": {}}
    for _ in range(2):  # the second finds nothing to do
        machine.remove_nic(MAC.lower())
        assert list(qemu.back_ends) == ["tap0"]
    with pytest.raises(HypervisorError, match="no NIC with the address"):
        machine.remove_nic("02:00:00:00:00:99")


@pytest.mark.parametrize("step", STEPS)
def test_a_refusal_at_any_step_is_undone(qemu: FakeQemu, image: str, step: str) -> None:
    machine = hotplug(qemu)
    qemu.fail = {step}
    with pytest.raises(QmpCommandError, match=f"refused {step}"):
        machine.add_disk(Disk(image, "data"))
    assert qemu.is_clean()
    assert machine.names() == ()
    qemu.fail = set()
    assert machine.add_disk(Disk(image, "data")) == ("blk", "1d.0/00")


@pytest.mark.parametrize("step", ["blockdev-add", "device_add"])
def test_a_command_without_an_answer_may_have_been_carried_out(qemu: FakeQemu, image: str, step: str) -> None:
    machine = hotplug(qemu)
    qemu.silent = {step}
    with pytest.raises(QmpTimeoutError, match=step):
        machine.add_disk(Disk(image, "data"))
    assert qemu.is_clean()
    assert machine.names() == ()


@pytest.mark.parametrize("step", WAY_BACK)
def test_what_cannot_be_undone_keeps_its_place(qemu: FakeQemu, image: str, step: str) -> None:
    machine = hotplug(qemu)
    machine.add_disk(Disk(image, "data"))
    qemu.fail = {step}
    with pytest.raises(QmpCommandError, match=f"refused {step}"):
        machine.remove("data")
    assert machine.names() == ("data",)
    assert machine.add_disk(Disk(image, "more")) == ("blk", "1d.1/00")
    qemu.fail = set()
    machine.remove("data")
    machine.remove("more")
    assert qemu.is_clean()


def test_a_failed_addition_that_cannot_be_undone_can_be_removed_later(qemu: FakeQemu, image: str) -> None:
    machine = hotplug(qemu)
    qemu.fail = {"device_add", "blockdev-del"}
    with pytest.raises(QmpCommandError, match="refused device_add"):
        machine.add_disk(Disk(image, "data"))
    assert machine.names() == ("data",)
    assert machine.address("data") is None, "it never came"
    qemu.fail = set()
    machine.remove("data")
    assert qemu.is_clean()


def test_a_guest_that_lets_go_late(qemu: FakeQemu, image: str) -> None:
    machine = hotplug(qemu)
    machine.add_disk(Disk(image, "data"))
    qemu.lets_go = False
    with pytest.raises(QmpTimeoutError):
        machine.remove("data")
    qemu.fail = {"device_del"}  # "already in the process of unplug"
    qemu.let_go("hot1")
    machine.remove("data")
    assert qemu.is_clean()


def test_a_guest_that_let_go_while_nobody_waited(qemu: FakeQemu, image: str) -> None:
    machine = hotplug(qemu)
    machine.add_disk(Disk(image, "data"))
    qemu.lets_go = False
    with pytest.raises(QmpTimeoutError):
        machine.remove("data")
    qemu.let_go("hot1")
    machine.remove("data")
    machine.add_disk(Disk(image, "data"))
    with pytest.raises(QmpTimeoutError):
        machine.remove("data")  # the event that is left over is not this device's
    assert len(qemu.devices) == 1


def test_a_guest_that_refuses(qemu: FakeQemu, image: str) -> None:
    machine = hotplug(qemu)
    machine.add_disk(Disk(image, "data"))
    qemu.lets_go = False
    qemu.events.append(Event(REFUSED, {"device": "hot1"}, 0.0))
    with pytest.raises(HypervisorError, match="does not let go"):
        machine.remove("data")
    assert machine.names() == ("data",)


def test_places_run_out_and_come_back(qemu: FakeQemu, image: str) -> None:
    machine = hotplug(qemu)
    for name in "ab":
        machine.add_disk(Disk(image, name))
    with pytest.raises(NoPlaceError, match="all 2 root ports"):
        machine.add_disk(Disk(image, "c"))
    machine.remove("a")
    assert machine.add_disk(Disk(image, "c")) == ("blk", "1d.0/00")


@pytest.mark.parametrize(
    ("changes", "driver", "sentence"),
    [
        ({"scsi_controller": False}, "scsi", "no SCSI controller"),
        ({"pcie_root_ports": 0}, "blk", "all 0 root ports"),
        ({"machine_type": "microvm", "scsi_controller": False}, "blk", "microvm takes no devices"),
        ({}, "nvdimm", "persistent memory cannot be added"),
    ],
)
def test_what_has_no_place(qemu: FakeQemu, image: str, changes: Any, driver: Any, sentence: str) -> None:
    with pytest.raises(NoPlaceError, match=sentence):
        hotplug(qemu, **changes).add_disk(Disk(image, "data", driver=driver))
    assert qemu.said == []


def test_bad_requests_reach_nobody(qemu: FakeQemu, image: str) -> None:
    machine = hotplug(qemu)
    for disk in (Disk("relative", "data"), Disk(image, "a,b"), Disk(image, "x" * 21), Disk(image, "a", driver="x")):  # type: ignore[arg-type]
        with pytest.raises(SpecError):
            machine.add_disk(disk)
    for serial in ("cold", "kata-image"):
        with pytest.raises(HypervisorError, match="already"):
            machine.add_disk(Disk(image, serial))
    with pytest.raises(HypervisorError, match="cannot be opened"):
        machine.add_disk(Disk("/nonexistent", "data"))
    with pytest.raises(HypervisorError, match="no device 'data' was added"):
        machine.remove("data")
    assert qemu.said == []


def test_an_answer_that_makes_no_sense(qemu: FakeQemu, image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = hotplug(qemu)
    answers: list[object] = [{}, [], {"fdset-id": "8"}, None]
    for answer in answers:
        monkeypatch.setattr(qemu, "add_fd", lambda *_, answer=answer: answer)
        with pytest.raises(QmpProtocolError, match="which set"):
            machine.add_disk(Disk(image, "data"))
    assert machine.names() == ()


def test_a_dead_qemu_holds_nobody(qemu: FakeQemu, image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = hotplug(qemu)

    def gone(*_: object, **__: object) -> object:
        raise QmpClosedError("the connection to QEMU is gone")

    monkeypatch.setattr(qemu, "execute", gone)
    with pytest.raises(QmpClosedError):
        machine.add_disk(Disk(image, "data"))
    with pytest.raises(HypervisorError, match="was added"):
        machine.remove("data")


def test_two_calls_do_not_change_one_device(qemu: FakeQemu, image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = hotplug(qemu)
    inside, go_on = threading.Event(), threading.Event()
    plain = qemu.blockdev_add

    def slow(arguments: Any, fds: Sequence[int]) -> object:
        inside.set()
        assert go_on.wait(10)
        return plain(arguments, fds)

    monkeypatch.setattr(qemu, "blockdev_add", slow)
    thread = threading.Thread(target=machine.add_disk, args=(Disk(image, "data"),))
    thread.start()
    assert inside.wait(10)
    with pytest.raises(HypervisorError, match="by another call"):
        machine.remove("data")
    with pytest.raises(HypervisorError, match="already"):
        machine.add_disk(Disk(image, "data"))
    assert machine.add_pci(PciDevice("nic", "e1000e")) == "1d.1/00", "others are not held up"
    go_on.set()
    thread.join(10)
    machine.remove("data")
    machine.remove("nic")
    assert qemu.is_clean()


@pytest.mark.parametrize("size", [0, 4096, (2 << 20) + 1])
def test_persistent_memory_of_a_size_that_cannot_be(tmp_path: Path, size: int) -> None:
    file = tmp_path / "memory"
    file.touch()
    os.truncate(file, size)
    with pytest.raises(SpecError, match="2 MiB"):
        files.pmem_sizes(memory_spec(file))


def test_persistent_memory_that_qemus_user_cannot_open(tmp_path: Path) -> None:
    file = tmp_path / "memory"
    file.touch(mode=0o604)
    os.truncate(file, 4 << 20)
    other = os.getuid() + 1
    assert files.pmem_sizes(memory_spec(file)) == (4 << 20,)
    assert files.pmem_sizes(memory_spec(file, uid=other, gid=other)) == (4 << 20,)
    with pytest.raises(SpecError, match="cannot open"):
        files.pmem_sizes(memory_spec(file, readonly=False, uid=other, gid=other))


def memory_spec(file: Path, *, readonly: bool = True, **more: Any) -> MachineSpec:
    disk = Disk(str(file), "memory", readonly=readonly, driver="nvdimm")
    return MachineSpec(sandbox_id="a", directory="/run/a", kernel="/k", initrd=None, image=None, disks=(disk,), **more)


def test_a_disk_that_grows(qemu: FakeQemu, tmp_path: Path) -> None:
    (image := tmp_path / "image").write_bytes(bytes(4096))
    sizes: list[Any] = []
    cast("Any", qemu).block_resize = lambda arguments, _fds: sizes.append(arguments)
    plugged = hotplug(qemu)
    plugged.add_disk(Disk(str(image), "data", readonly=False))
    plugged.resize_disk("data", 8192)
    [node] = qemu.nodes
    assert sizes == [{"node-name": node, "size": 8192}]
    with pytest.raises(HypervisorError, match="no disk 'cold' was added"):
        plugged.resize_disk("cold", 8192)


def test_a_device_of_the_host_is_not_a_file(qemu: FakeQemu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (image := tmp_path / "image").write_bytes(bytes(4096))
    plugged = hotplug(qemu)
    plugged.add_disk(Disk(str(image), "file"))
    monkeypatch.setattr(stat, "S_ISBLK", lambda mode: True)
    plugged.add_disk(Disk(str(image), "device"))
    assert [node["file"]["driver"] for node in qemu.nodes.values()] == ["file", "host_device"]


def test_an_image_that_says_where_it_ends_goes_into_a_spare_disk(qemu: FakeQemu, image: str) -> None:
    machine = hotplug(qemu, spare_disks=3)  # the first is the spec's own disk
    first = machine.add_disk(Disk(image, "one", bounded=True))
    second = machine.add_disk(Disk(image, "two", bounded=True))
    assert (first, second) == (("blk", "06"), ("blk", "07"))
    assert qemu.devices == {}, "nothing is plugged in"
    assert qemu.spares == {"disk2": "hot1", "disk3": "hot2"}
    assert machine.add_disk(Disk(image, "three", bounded=True)) == ("blk", "1d.0/00"), "no spare one is left"
    machine.remove("one")
    assert qemu.spares["disk2"] == "empty2"
    assert machine.add_disk(Disk(image, "four", bounded=True)) == ("blk", "06")
    for name in ("two", "three", "four"):
        machine.remove(name)
    assert qemu.is_clean() and set(qemu.spares.values()) == {"empty2", "empty3"}


@pytest.mark.parametrize("changes", [{"bounded": False}, {"bounded": True, "readonly": False}])
def test_a_disk_whose_size_counts_is_plugged_in(qemu: FakeQemu, image: str, changes: dict[str, Any]) -> None:
    machine = hotplug(qemu, spare_disks=3)
    assert machine.add_disk(Disk(image, "data", **changes)) == ("blk", "1d.0/00")


@pytest.mark.parametrize("step", ["add-fd", "blockdev-add", "blockdev-reopen"])
def test_a_spare_disk_that_is_refused_is_as_before(qemu: FakeQemu, image: str, step: str) -> None:
    machine = hotplug(qemu, spare_disks=2)
    qemu.silent = {step}
    with pytest.raises(QmpTimeoutError, match=step):
        machine.add_disk(Disk(image, "data", bounded=True))
    qemu.silent = set()
    if machine.names():  # QEMU was silent on the way back too
        machine.remove("data")
    assert qemu.nodes == {}
    assert machine.add_disk(Disk(image, "data", bounded=True)) == ("blk", "06")


def test_a_share_comes_to_a_root_port(qemu: FakeQemu, image: str) -> None:
    machine = hotplug(qemu)
    machine.add_share(0, "kataShared", os.open(image, os.O_RDONLY))
    [device] = qemu.devices.values()
    assert (device["driver"], device["chardev"], device["bus"]) == ("vhost-user-fs-pci", "fs0", "port0")
    qemu.fail = {"device_add"}
    with pytest.raises(QmpCommandError):
        machine.add_share(1, "other", os.open(image, os.O_RDONLY))
    assert machine.names() == ("fs0",)

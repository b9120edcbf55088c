"""Memory and CPUs that come to a QEMU, against one of ours that keeps what it gets and refuses when told to."""

from __future__ import annotations

import os
import threading
from typing import Any, cast

import msgspec
import pytest

from kata.hypervisor.errors import HypervisorError, NoPlaceError, QmpCommandError, QmpProtocolError
from kata.hypervisor.machine import MachineSpec, SharedDirectory
from kata.hypervisor.qemu.growth import Growth
from kata.hypervisor.qemu.qmp import Event, QmpClient

MIB = 1 << 20
SPEC = MachineSpec(
    sandbox_id="a",
    directory="/d",
    kernel="/k",
    initrd=None,
    image=None,
    memory_mib=256,
    max_memory_mib=1024,
    memory_slots=2,
    max_vcpus=3,
    balloon=True,
)


class FakeQemu:
    """Three places for CPUs, the first of which is taken; memory needs its back end."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.devices: dict[str, dict[str, Any]] = {}
        self.refuse = ""
        self.ballooned = 256 * MIB
        self.threads: list[object] = []

    def execute(self, command: str, arguments: Any = None, *, timeout: float) -> object:
        assert timeout > 0
        if command == self.refuse:
            raise QmpCommandError(command, "GenericError", "no")
        return getattr(self, command.replace("-", "_"))(arguments)

    def wait_event(self, *names: str, timeout: float, accept: Any) -> Event:
        gone = [name for name in ("cpu-hot1", "cpu-hot2") if name not in self.devices]
        events = [Event("DEVICE_DELETED", {"device": name}, 0.0) for name in gone]
        return next(event for event in events if event.name in names and accept(event))

    def object_add(self, arguments: Any) -> object:
        self.objects[arguments["id"]] = arguments
        return {}

    def object_del(self, arguments: Any) -> object:
        del self.objects[arguments["id"]]
        return {}

    def device_add(self, arguments: Any) -> object:
        assert arguments["driver"] != "pc-dimm" or arguments["memdev"] in self.objects
        self.devices[arguments["id"]] = arguments
        return {}

    def device_del(self, arguments: Any) -> object:
        del self.devices[arguments["id"]]
        return {}

    def balloon(self, arguments: Any) -> object:
        self.ballooned = arguments["value"]
        return {}

    def query_balloon(self, _: Any) -> object:
        return {"actual": self.ballooned}

    def query_cpus_fast(self, _: Any) -> object:
        return [{"cpu-index": place, "thread-id": thread} for place, thread in enumerate(self.threads)]

    def query_hotpluggable_cpus(self, _: Any) -> object:
        taken = {device.get("core-id") for device in self.devices.values()} | {0}
        places: list[dict[str, Any]] = [
            {"type": "max-x86_64-cpu", "props": {"socket-id": 0, "core-id": core, "thread-id": 0}} for core in (2, 1, 0)
        ]
        return [{**place, "qom-path": "/m"} if place["props"]["core-id"] in taken else place for place in places]


def growth(qemu: FakeQemu, **changes: Any) -> Growth:
    return Growth(cast("QmpClient", qemu), msgspec.structs.replace(SPEC, **changes))


def test_memory_takes_slots() -> None:
    qemu = FakeQemu()
    made = growth(qemu)
    made.add_memory(128)
    made.add_memory(256)
    assert [part["size"] for part in qemu.objects.values()] == [128 * MIB, 256 * MIB]
    assert [part["qom-type"] for part in qemu.objects.values()] == ["memory-backend-ram"] * 2
    assert [device["driver"] for device in qemu.devices.values()] == ["pc-dimm"] * 2
    assert made.free_slots == 0
    with pytest.raises(NoPlaceError):
        made.add_memory(128)


def test_a_share_sees_what_comes() -> None:
    qemu = FakeQemu()
    growth(qemu, shares=(SharedDirectory("kataShared", "/s"),)).add_memory(128)
    (part,) = qemu.objects.values()
    assert (part["qom-type"], part["share"]) == ("memory-backend-memfd", True)


@pytest.mark.parametrize("refused", ["object-add", "device_add"])
def test_nothing_is_left_of_refused_memory(refused: str) -> None:
    qemu = FakeQemu()
    made = growth(qemu)
    qemu.refuse = refused
    with pytest.raises(QmpCommandError):
        made.add_memory(128)
    assert (qemu.objects, qemu.devices, made.free_slots) == ({}, {}, 2)
    qemu.refuse = ""
    made.add_memory(128)


@pytest.mark.parametrize("change", [{"machine_type": "microvm"}, {"max_memory_mib": 256}, {"memory_slots": 0}])
def test_machines_that_do_not_grow(change: dict[str, Any]) -> None:
    with pytest.raises(NoPlaceError):
        growth(FakeQemu(), **change).add_memory(128)


def test_cpus_come_in_order_and_go_backwards() -> None:
    qemu = FakeQemu()
    made = growth(qemu)
    made.add_vcpus(2)
    assert [(device["driver"], device["core-id"]) for device in qemu.devices.values()] == [
        ("max-x86_64-cpu", 1),
        ("max-x86_64-cpu", 2),
    ]
    with pytest.raises(NoPlaceError, match="place for 0 more CPUs"):
        made.add_vcpus(1)
    assert made.remove_vcpus(1) == 1
    assert [device["core-id"] for device in qemu.devices.values()] == [1]
    assert made.remove_vcpus(5) == 1, "those of the boot stay"


def test_a_qemu_names_no_threads_but_its_own() -> None:
    """They are pinned and moved to cgroups by their numbers."""
    done = threading.Event()
    other = threading.Thread(target=done.wait)
    other.start()
    ours = [threading.get_native_id(), other.native_id]
    qemu = FakeQemu()
    qemu.threads = [ours[1], 1, os.getppid(), 0, -1, 1 << 70, "2", None, [], ours[0]]
    try:
        assert growth(qemu).vcpu_threads(os.getpid()) == (ours[1], ours[0])
    finally:
        done.set()
        other.join()


def test_a_qemu_that_talks_nonsense_about_cpus() -> None:
    qemu = FakeQemu()
    qemu.query_hotpluggable_cpus = lambda _: [  # type: ignore[method-assign]
        {"type": [], "props": {"socket-id": "x", "core-id": [], "thread-id": {}}},
        {"type": "a", "props": 5},
        {"type": "b", "props": {"core-id": 1 << 80, "socket-id": True, "thread-id": -1, "driver": "c", "die-id": 2}},
        7,
    ]
    growth(qemu).add_vcpus(2)
    assert list(qemu.devices.values()) == [
        {"driver": "a", "id": "cpu-hot1"},
        {"driver": "b", "id": "cpu-hot2", "die-id": 2},
    ], "what is sent back to it is what a place can have"
    with pytest.raises(NoPlaceError):
        growth(qemu).add_vcpus(3)


def test_balloon() -> None:
    qemu = FakeQemu()
    made = growth(qemu)
    made.set_balloon(128)
    assert (qemu.ballooned, made.balloon()) == (128 * MIB, 128)
    with pytest.raises(HypervisorError, match="no balloon"):
        growth(qemu, balloon=False).set_balloon(128)
    qemu.query_balloon = lambda _: {}  # type: ignore[method-assign]
    with pytest.raises(QmpProtocolError):
        made.balloon()

"""A machine that follows its containers: in which order, what is kept when something fails, and one at a time."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest

from kata.cgroups.limits import Limits
from kata.hypervisor.errors import NoPlaceError
from kata.log import Logger
from kata.protocol.generated import agent_pb2
from kata.sandbox.config import GuestAssets, SandboxConfig, Sizing
from kata.sandbox.errors import ConflictError, ContainerError
from kata.sandbox.resize import Resizer
from kata.sandbox.turn import Turn

MIB = 1 << 20
SIZING = Sizing(follows=True, own_vcpus=1.0, own_memory_mib=256, max_vcpus=4, max_memory_mib=4096, memory_slots=3)


class World:
    """The machine, its agent and its cgroups, which write down what they are asked for."""

    def __init__(self, accelerator: str = "kvm") -> None:
        self.said: list[str] = []
        self.accelerator = accelerator
        self.slots = 3
        self.refuse = ""

    def _say(self, words: str) -> None:
        self.said.append(words)
        if self.refuse and words.startswith(self.refuse):
            raise NoPlaceError("no")

    def took(self) -> list[str]:
        said, self.said = self.said, []
        return said

    def free_memory_slots(self) -> int:
        return self.slots

    def vcpu_threads(self) -> tuple[int, ...]:
        return (threading.get_native_id(),)

    def add_memory(self, mib: int) -> None:
        self._say(f"memory {mib}")

    def add_vcpus(self, count: int) -> None:
        self._say(f"cpus {count}")

    def remove_vcpus(self, count: int) -> int:
        self._say(f"cpus -{count}")
        return count

    def set_balloon(self, mib: int) -> None:
        self._say(f"balloon {mib}")

    def guest_details(self) -> agent_pb2.GuestDetailsResponse:
        return agent_pb2.GuestDetailsResponse(mem_block_size_bytes=128 * MIB)

    def online(self, cpus: int, *, memory: bool) -> None:
        self._say(f"online {cpus} {memory}")

    def remount_ephemeral(self, storages: Any) -> None:
        self._say(f"remount {[(s.mount_point, list(s.options)) for s in storages]}")

    def settle(self, vcpus: Any, others: Any) -> None:
        self._say("settle")

    def limit(self, limits: Limits) -> None:
        self._say(f"limit {limits.cpu}")


def resizer(world: Any, sizing: Sizing = SIZING, **changes: Any) -> Resizer:
    config = SandboxConfig(
        id="a", hostname="a", assets=GuestAssets("/k", None, None), vcpus=1, memory_mib=256, sizing=sizing, balloon=True
    )
    return Resizer(config, world, world, world, Logger(os.open(os.devnull, os.O_WRONLY), level="critical"), **changes)


def limits(mib: int, cpus: float) -> Any:
    return {"memory": {"limit": mib * MIB}, "cpu": {"quota": int(cpus * 100000), "period": 100000}}


def test_room_comes_first_and_goes_last() -> None:
    world = World()
    made = resizer(world)
    made.join("c1", limits(128, 1.0), [])
    assert world.took() == ["memory 128", "online 0 True", "cpus 1", "online 2 False", "settle", "limit 2.0"]
    made.change("c1", limits(256, 0.5), lambda: world._say("update"))
    assert world.took() == ["memory 128", "online 0 True", "update", "limit 1.5"]
    made.change("c1", {"memory": {"limit": 64 * MIB}}, lambda: world._say("update"))
    assert world.took() == ["update", "balloon 320", "limit 1.5"]
    made.leave("c1")
    made.leave("c1")
    assert world.took() == ["balloon 256", "cpus -1", "settle", "limit None"]


def test_a_refused_update_changes_nothing() -> None:
    world = World()
    made = resizer(world)
    made.join("c1", limits(128, 1.0), [])
    world.took()

    def refuse() -> None:
        raise ContainerError("no")

    with pytest.raises(ContainerError):
        made.change("c1", limits(1024, 1.0), refuse)
    assert world.took() == ["memory 896", "online 0 True", "balloon 384", "limit 2.0"]


def test_a_machine_that_cannot_follow_stays() -> None:
    world = World()
    world.refuse = "memory"
    made = resizer(world)
    made.join("c1", limits(128, 0.5), [])
    assert world.took() == ["memory 128", "limit 1.5"]
    world.refuse = "online 2"
    made.change("c1", limits(128, 1.0), lambda: None)
    made.change("c1", limits(128, 2.0), lambda: None)
    assert [words for words in world.took() if "cpus" in words] == ["cpus 1"], "a guest that refused is not asked again"


def test_no_cpus_come_under_tcg() -> None:
    world = World("tcg")
    resizer(world).join("c1", limits(0, 2.0), [])
    assert world.took() == ["limit 3.0"]


def test_what_was_announced_holds_until_all_are_there() -> None:
    world = World("tcg")
    made = resizer(world, Sizing(**{**_fields(SIZING), "announced_memory_mib": 256, "own_memory_mib": 0}))
    made.join("c1", limits(128, 0.0), [])
    made.join("c2", limits(128, 0.0), [])
    assert [words for words in world.took() if "balloon" in words or "memory" in words] == []
    made.leave("c2")
    assert "balloon 128" in world.took()


def test_fixed_sizes_are_kept_and_ended_containers_do_not_count() -> None:
    world = World()
    resizer(world, Sizing(own_vcpus=1.0)).join("c1", limits(1024, 3.0), [])
    assert world.took() == ["limit 4.0"]
    made = resizer(world, ended=lambda name: name == "c1")
    made.join("c1", limits(1024, 3.0), [])
    assert world.took() == ["limit None"]


def test_memory_volumes_grow_with_the_guest() -> None:
    world = World()
    volume = agent_pb2.Storage(driver="ephemeral", fstype="tmpfs", mount_point="/e", options=["noexec", "fsgid=5"])
    other = agent_pb2.Storage(driver="virtio-fs", fstype="virtiofs", mount_point="/s")
    sized = agent_pb2.Storage(driver="ephemeral", fstype="tmpfs", mount_point="/s", options=["size=4096"])
    resizer(world).join("c1", limits(128, 0.0), [volume, other, sized])
    assert "remount [('/e', ['noexec', 'size=402653184'])]" in world.took()


def test_pinning_when_there_are_as_many_of_each() -> None:
    allowed = sorted(os.sched_getaffinity(0))
    done: list[set[int]] = []

    def pin() -> None:
        made = resizer(World("tcg"), Sizing(pin_vcpus=True))
        made.join("c1", {"cpu": {"cpus": str(allowed[-1])}}, [])
        done.append(os.sched_getaffinity(threading.get_native_id()))
        made.join("c2", {"cpu": {"cpus": ",".join(map(str, allowed))}}, [])
        done.append(os.sched_getaffinity(threading.get_native_id()))

    thread = threading.Thread(target=pin)
    thread.start()
    thread.join(10)
    assert done == [{allowed[-1]}, set(allowed)]


def test_turns_are_taken_one_after_another() -> None:
    turn, order = Turn("change", 0.05), list[str]()
    with turn:
        order.append("in")
        with pytest.raises(ConflictError, match="another change is under way"), turn:
            pytest.fail("two at once")
    with turn:
        order.append("in again")
    assert order == ["in", "in again"]


def _fields(sizing: Sizing) -> dict[str, Any]:
    return {name: getattr(sizing, name) for name in sizing.__struct_fields__}

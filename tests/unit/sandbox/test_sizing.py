"""Sizes: what containers come to, and the steps from the size that is to the size that should be."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.cgroups.limits import Limits, Rule
from kata.sandbox import resources
from kata.sandbox.resources import Workload
from kata.sandbox.sizing import (
    AddCpus,
    AddMemory,
    Bounds,
    RemoveCpus,
    SetBalloon,
    Size,
    State,
    Step,
    after,
    plan,
)

MIB = 1 << 20
HALF: Any = {"cpu": {"quota": 50000, "period": 100000}, "memory": {"limit": 64 * MIB}}
BOUND: Any = {"cpu": {"cpus": "0-2,5", "mems": "0"}}
BOUNDS = Bounds(Size(4, 8192), 1, 128, 10, balloon=True)


def state(vcpus: int, plugged: int, target: int | None = None) -> State:
    return State(Size(vcpus, plugged if target is None else target), plugged)


@pytest.mark.parametrize(
    ("containers", "expected"),
    [
        ([], Workload()),
        ([HALF, HALF, HALF], Workload(1.5, 192)),
        ([HALF, {}], Workload(0.5, 64)),
        ([{"memory": {"limit": -1}}, {"memory": {"limit": (1 << 63) - 4096}}, {"cpu": {"quota": -1}}], Workload()),
        ([BOUND, {"cpu": {"cpus": "2,3"}}], Workload(5.0, 0)),
        ([BOUND, HALF], Workload(0.5, 64)),
        ([{"cpu": {"cpus": "x-9,,"}}], Workload()),
        ([{"hugepageLimits": [{"pageSize": "2MB", "limit": 32 * MIB}], **HALF}], Workload(0.5, 96)),
    ],
)
def test_what_containers_come_to(containers: Any, expected: Workload) -> None:
    assert resources.of_containers(containers) == expected


def test_an_update_names_only_what_changes() -> None:
    new: Any = {"cpu": {"quota": 70000}, "pids": {"limit": 9}}
    assert resources.updated(HALF, new) == {
        "cpu": {"quota": 70000, "period": 100000},
        "memory": {"limit": 64 * MIB},
        "pids": {"limit": 9},
    }
    assert HALF["cpu"]["quota"] == 50000


def test_limits_of_the_host() -> None:
    assert resources.host_limits([HALF, HALF], 1.0) == Limits(2.0, 128 * MIB)
    assert resources.host_limits([HALF, {}], 1.0) == Limits(), "one without limits: all may be used"
    assert resources.host_limits([], 1.0) == Limits()
    bound: Any = {**HALF, "cpu": {**HALF["cpu"], "cpus": "1,0", "mems": "0"}}
    assert resources.host_limits([bound], 1.0) == Limits(1.5, 64 * MIB, "0,1", "0")


def test_device_rules_of_a_container() -> None:
    rules: Any = [
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rw"},
        {"allow": True, "type": "b", "major": 8},
        {"allow": True},
    ]
    assert resources.device_rules({"devices": rules}) == [Rule("c", 1, 3, "rw"), Rule("b", 8, -1), Rule("a", -1, -1)]


@pytest.mark.parametrize(
    ("annotations", "expected"), [({resources.CONTAINER_TYPE: resources.PAUSE}, False), ({}, True)]
)
def test_a_pause_container_does_not_count(annotations: dict[str, str], expected: bool) -> None:
    assert resources.counts({"process": {}}, annotations) is expected


@pytest.mark.parametrize(
    ("now", "wanted", "bounds", "steps"),
    [
        (state(1, 256), Size(1, 256), BOUNDS, ()),
        (state(1, 256), Size(2, 300), BOUNDS, (AddMemory(128), AddCpus(1, 2))),
        (state(1, 384), Size(1, 300), BOUNDS, ()),
        (state(1, 384), Size(1, 256), BOUNDS, (SetBalloon(256),)),
        (state(1, 384, 256), Size(1, 384), BOUNDS, (SetBalloon(384),)),
        (state(1, 384, 256), Size(1, 500), BOUNDS, (SetBalloon(384), AddMemory(128))),
        (state(3, 256), Size(1, 256), BOUNDS, (RemoveCpus(2),)),
        (state(3, 256), Size(1, 256), BOUNDS._replace(least_vcpus=2), (RemoveCpus(1),)),
        (state(1, 256), Size(9, 99999), BOUNDS, (AddMemory(7936), AddCpus(3, 4))),
        (state(1, 256), Size(1, 300), BOUNDS._replace(block_mib=0), ()),
        (state(1, 256), Size(1, 300), BOUNDS._replace(slots=0), ()),
        (state(1, 256), Size(1, 128), BOUNDS._replace(balloon=False), ()),
        (state(1, 128), Size(1, 8192), BOUNDS, (AddMemory(6144), AddMemory(1920))),
        (state(1, 8192), Size(1, 9000), BOUNDS, ()),
    ],
)
def test_plans(now: State, wanted: Size, bounds: Bounds, steps: tuple[Step, ...]) -> None:
    assert plan(now, wanted, bounds) == steps


SIZES = st.builds(Size, st.integers(1, 8), st.integers(96, 20000))


@given(
    boot=SIZES,
    wishes=st.lists(SIZES, max_size=6),
    block=st.sampled_from([0, 1, 2, 128, 2048]),
    slots=st.integers(0, 4),
    balloon=st.booleans(),
)
def test_any_wishes(boot: Size, wishes: list[Size], block: int, slots: int, balloon: bool) -> None:
    """A plan keeps to its bounds, a second plan for the same wish is empty, and what fits is reached."""
    now = State(boot, boot.memory_mib)
    most = Size(8, max(16384, boot.memory_mib))
    for wanted in wishes:
        bounds = Bounds(most, boot.vcpus, block, slots, balloon)
        before = now
        for step in plan(now, wanted, bounds):
            now = after(now, step)
            if isinstance(step, AddMemory):
                assert step.mib > 0 and step.mib % block == 0
                slots -= 1
        assert slots >= 0
        assert boot.vcpus <= now.size.vcpus <= most.vcpus
        assert before.plugged_mib <= now.plugged_mib <= most.memory_mib
        assert now.size.memory_mib <= now.plugged_mib
        if wanted.memory_mib <= now.plugged_mib and balloon:
            assert 0 <= now.size.memory_mib - wanted.memory_mib < max(1, block)
        assert plan(now, wanted, bounds._replace(slots=slots)) == ()

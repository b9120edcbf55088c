"""A sandbox's cgroups in fake trees of v1, v2 and hybrid hosts: who goes where, what is written, what is removed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from kata.cgroups.limits import Limits, Rule, device_rules
from kata.cgroups.path import placement
from kata.cgroups.sandbox import SandboxGroups, clear
from tests.unit.cgroups.trees import Trees

ME = str(os.getpid())
APART = placement("/default/box", "id1", together=False)
TOGETHER = placement("/default/box", "id1", together=True)


@pytest.fixture
def trees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trees:
    return Trees(tmp_path, monkeypatch)


@pytest.fixture
def warnings() -> list[str]:
    return []


def test_v1_splits_threads(trees: Trees, warnings: list[str]) -> None:
    host = [trees.tree("cpu", 1, "cpu", "cpuset"), trees.tree("memory", 1, "memory"), trees.tree("dev", 1, "devices")]
    groups = SandboxGroups(APART, "id1", warnings.append, host)
    groups.enter([Rule("c", 99, 1)])
    assert trees.read("memory/kata_overhead/id1/cgroup.procs") == ME
    assert trees.read("cpu/default/kata_box/cpuset.cpus") == "0-3", "a cpuset begins with what is above it"
    assert trees.read("dev/default/kata_box/devices.deny") == "a"
    groups.settle([4001], [4002])
    assert trees.read("cpu/default/kata_box/tasks") == trees.read("memory/default/kata_box/tasks") == "4001"
    assert trees.read("memory/default/kata_box/cgroup.procs") == ""
    groups.limit(Limits(0.5, 1 << 20))
    assert trees.read("cpu/default/kata_box/cpu.cfs_quota_us") == "50000"
    assert trees.read("memory/default/kata_box/memory.limit_in_bytes") == str(1 << 20)
    assert trees.read("cpu/default/kata_box/memory.limit_in_bytes") == "", "not in a tree without the controller"
    groups.leave()
    assert sorted(path.name for path in trees.folder.rglob("*") if path.is_dir()) == ["cpu", "dev", "memory"]
    assert warnings == []


def test_v2_keeps_the_vmm_whole_and_starts_it_in_its_place(trees: Trees, warnings: list[str]) -> None:
    groups = SandboxGroups(APART, "id1", warnings.append, [trees.tree("all", 2, "cpu", "memory", "cpuset")])
    groups.enter()
    assert trees.read("all/default/kata_box/cgroup.procs") == ME
    assert trees.read("all/cgroup.subtree_control") != "" and trees.read("all/default/cgroup.subtree_control") != ""
    groups.settle([4001], [40000002])
    assert trees.read("all/kata_overhead/id1/cgroup.procs") == "40000002", "the daemons, after this process"
    assert trees.read("all/default/kata_box/cgroup.threads") == ""
    groups.limit(Limits(2, 1 << 20))
    assert trees.read("all/default/kata_box/cpu.max") == "200000 100000"
    assert trees.read("all/default/kata_box/memory.max") == ""


def test_together_has_no_overhead_and_no_limits(trees: Trees, warnings: list[str]) -> None:
    groups = SandboxGroups(TOGETHER, "id1", warnings.append, [trees.tree("cpu", 1, "cpu")])
    groups.enter()
    groups.settle([4001], [4002])
    groups.limit(Limits(0.5))
    assert trees.read("cpu/default/kata_box/cgroup.procs") == ME
    assert trees.read("cpu/default/kata_box/tasks") == trees.read("cpu/default/kata_box/cpu.cfs_quota_us") == ""
    assert not (trees.folder / "cpu/kata_overhead").exists()


def test_only_what_is_ours_is_removed(trees: Trees, warnings: list[str]) -> None:
    host = [trees.tree("cpu", 1, "cpu")]
    (trees.folder / "cpu/default").mkdir()
    for name in ("tasks", "cgroup.procs", "cpuset.cpus", "cpuset.mems"):
        (trees.folder / "cpu/default" / name).write_text("")
    ours = SandboxGroups(APART, "id1", warnings.append, host)
    ours.enter()
    other = SandboxGroups(placement("/default/box", "id2", together=False), "id2", warnings.append, host)
    other.enter()
    other.leave()
    assert (trees.folder / "cpu/default/kata_box").is_dir(), "it is the first one's"
    assert (trees.folder / "cpu/kata_overhead").is_dir(), "it is not empty yet"
    clear(APART, "id1", host)
    assert (trees.folder / "cpu/default").is_dir(), "it was there before"
    assert not (trees.folder / "cpu/default/kata_box").exists() and not (trees.folder / "cpu/kata_overhead").exists()
    clear(APART, "id1", host)


def test_what_the_host_does_not_permit_is_a_warning(trees: Trees, warnings: list[str]) -> None:
    host = [trees.tree("cpu", 1, "cpu")]
    groups = SandboxGroups(APART, "id1", warnings.append, host)
    groups.enter()
    (trees.folder / "cpu/default/kata_box/cpu.cfs_quota_us").unlink()
    groups.limit(Limits(0.5))
    assert len(warnings) == 1 and "cpu.cfs_quota_us" in warnings[0]
    nowhere = SandboxGroups(APART, "id1", warnings.append, [])
    nowhere.enter()
    nowhere.settle([1], [])
    nowhere.leave()
    assert len(warnings) == 1


def test_processes_that_are_ending_are_waited_for(trees: Trees) -> None:
    """The VMM of a killed shim gives its memory back; until then it can neither be moved nor its cgroup be removed."""
    host = [trees.tree("cpu", 1, "cpu")]
    SandboxGroups(APART, "id1", pytest.fail, host).enter()
    with subprocess.Popen(["sleep", "0.5"]) as ending:
        (trees.folder / "cpu/kata_overhead/id1/cgroup.procs").write_text(str(ending.pid))
        clear(APART, "id1", host)
        assert ending.poll() is not None
    assert not (trees.folder / "cpu/kata_overhead").exists()


def test_v2_gets_a_program_that_grows(trees: Trees, warnings: list[str]) -> None:
    host = [trees.tree("both", 2, "cpu", "memory")]
    own = f"{trees.folder}/both/default/kata_box"
    groups = SandboxGroups(APART, "id1", warnings.append, host)
    groups.enter([Rule("c", 1, 11)])
    first = list(trees.filters[own])
    assert {*device_rules(), Rule("c", 1, 11)} <= set(first)
    groups.allow([Rule("c", 99, 1), Rule("c", 1, 11)])
    assert trees.filters[own] == [*first, Rule("c", 99, 1)]
    assert trees.filters.keys() == {own}, "overhead is not a container's"
    groups.leave()
    other = SandboxGroups(APART, "id2", warnings.append, host)
    os.mkdir(own.rpartition("/")[0])
    os.mkdir(own)
    trees.filters.clear()
    other.enter()
    other.allow([Rule("c", 1, 11)])
    assert not trees.filters and not warnings, "what others have made is theirs"

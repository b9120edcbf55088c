"""Cgroup v1 over trees of files: which hierarchies there are, whose folders, and their statistics."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from kata.agent import stats1
from kata.agent.adapt import limited_by
from kata.agent.config import parse_cmdline
from kata.linux import cgroup1

CGROUPS = """#subsys_name	hierarchy	num_cgroups	enabled
cpuset	0	1	1
cpu	0	1	1
cpuacct	0	1	1
memory	0	1	0
devices	0	1	1
net_prio	0	1	1
pids	0	1	1
"""
FILES = {
    "cpu/box/cpu.stat": "nr_periods 3\nnr_throttled 2\nthrottled_time 7\n",
    "cpu/box/cpuacct.usage": "5000\n",
    "cpu/box/cpuacct.usage_user": "4000\n",
    "cpu/box/cpuacct.usage_sys": "1000\n",
    "cpu/box/cpuacct.usage_percpu": "2000 3000 \n",
    "memory/box/memory.stat": "cache 20\nrss 10\n",
    "memory/box/memory.use_hierarchy": "1\n",
    "memory/box/memory.usage_in_bytes": "100\n",
    "memory/box/memory.max_usage_in_bytes": "200\n",
    "memory/box/memory.limit_in_bytes": "9223372036854771712\n",
    "memory/box/memory.failcnt": "4\n",
    "memory/box/memory.memsw.usage_in_bytes": "106\n",
    "memory/box/memory.kmem.usage_in_bytes": "30\n",
    "pids/box/pids.current": "2\n",
    "pids/box/pids.max": "77\n",
    "pids/box/cgroup.procs": "11\n12\n",
    "pids/box/inner/cgroup.procs": "13\n",
    "blkio/box/blkio.throttle.io_service_bytes_recursive": "254:0 Read 1\n254:0 Write 2\nTotal 3\n",
    "blkio/box/blkio.throttle.io_serviced_recursive": "254:0 Read 3\n",
    "hugetlb/box/hugetlb.2MB.usage_in_bytes": "4096\n",
    "hugetlb/box/hugetlb.2MB.max_usage_in_bytes": "8192\n",
    "hugetlb/box/hugetlb.2MB.failcnt": "8\n",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "cpuacct").symlink_to("cpu")
    return tmp_path


def test_what_is_mounted_together() -> None:
    assert cgroup1.hierarchies(CGROUPS) == [("cpu", "cpuacct"), ("net_prio",), ("cpuset",), ("devices",), ("pids",)]


def test_the_layout_is_known_by_its_files(root: Path) -> None:
    assert cgroup1.is_mounted(str(root))
    (root / "cgroup.controllers").write_text("")
    assert not cgroup1.is_mounted(str(root))
    assert not cgroup1.is_mounted("/nonexistent")


def test_folders_of_a_process(root: Path) -> None:
    (root / "9").mkdir()
    (root / "9/cgroup").write_text("4:pids:/box\n3:cpu,cpuacct:/box\n2:memory:/\n1:name=systemd:/box\n0::/\n")
    assert cgroup1.folders_of(9, str(root), str(root)) == {
        "pids": f"{root}/pids/box",
        "cpu": f"{root}/cpu/box",
        "cpuacct": f"{root}/cpuacct/box",
        "memory": f"{root}/memory",
    }
    assert sorted(cgroup1.folders_at("/box/inner", str(root))) == ["pids"]
    assert cgroup1.pids(f"{root}/pids/box") == [11, 12, 13]


def test_statistics(root: Path) -> None:
    found = stats1.collect(cgroup1.folders_at("/box", str(root))).cgroup_stats
    usage, throttling = found.cpu_stats.cpu_usage, found.cpu_stats.throttling_data
    assert (usage.total_usage, usage.usage_in_usermode, usage.usage_in_kernelmode) == (5000, 4000, 1000)
    assert list(usage.percpu_usage) == [2000, 3000]
    assert (throttling.periods, throttling.throttled_periods, throttling.throttled_time) == (3, 2, 7)
    memory = found.memory_stats
    assert (memory.cache, memory.use_hierarchy, memory.stats["rss"]) == (20, True, 10)
    assert (memory.usage.usage, memory.usage.max_usage, memory.usage.failcnt) == (100, 200, 4)
    assert memory.usage.limit == 9223372036854771712
    assert (memory.swap_usage.usage, memory.kernel_usage.usage) == (106, 30)
    assert (found.pids_stats.current, found.pids_stats.limit) == (2, 77)
    rows = [(row.major, row.minor, row.op, row.value) for row in found.blkio_stats.io_service_bytes_recursive]
    assert rows == [(254, 0, "Read", 1), (254, 0, "Write", 2)]
    assert found.blkio_stats.io_serviced_recursive[0].value == 3
    huge = found.hugetlb_stats["2MB"]
    assert (huge.usage, huge.max_usage, huge.failcnt) == (4096, 8192, 8)


def test_without_controllers_all_is_zero() -> None:
    found = stats1.collect({}).cgroup_stats
    assert (found.memory_stats.usage.usage, found.pids_stats.limit, len(found.hugetlb_stats)) == (0, 0, 0)


def test_limits_that_need_a_controller(root: Path) -> None:
    limits = {"memory": {"limit": 1}, "cpu": {"shares": 2, "cpus": "0-1"}, "pids": {"limit": 3}}
    assert limited_by(limits) == ["memory", "cpuset"]  # type: ignore[arg-type]
    assert limited_by({"memory": {}, "cpu": {"quota": 5}}) == []
    assert cgroup1.lacking(["memory", "cpuset"], str(root)) == ["cpuset"]


def test_every_process_is_killed_and_the_freezer_let_go(tmp_path: Path) -> None:
    sleepers = [subprocess.Popen(["sleep", "100"]) for _ in range(2)]
    gone = subprocess.Popen(["true"])
    gone.wait(20)
    (tmp_path / "inner").mkdir()
    (tmp_path / "cgroup.procs").write_text(f"{sleepers[0].pid}\n{gone.pid}\n")
    (tmp_path / "inner/cgroup.procs").write_text(f"{sleepers[1].pid}\n")
    (tmp_path / "freezer.state").write_text("THAWED")
    cgroup1.kill({"pids": os.devnull, "freezer": str(tmp_path)})
    assert [sleeper.wait(20) for sleeper in sleepers] == [-signal.SIGKILL] * 2
    assert (tmp_path / "freezer.state").read_text() == "THAWED"


@pytest.mark.parametrize(
    ("line", "unified"),
    [
        ("quiet", True),
        ("systemd.unified_cgroup_hierarchy=1", True),
        ("systemd.unified_cgroup_hierarchy=0", False),
        ("agent.unified_cgroup_hierarchy=false", False),
        ("systemd.unified_cgroup_hierarchy=1 agent.unified_cgroup_hierarchy=0", False),
        ("systemd.unit=kata.target systemd.mask=x", True),
    ],
)
def test_who_asks_for_it(line: str, unified: bool) -> None:
    config = parse_cmdline(line)
    assert (config.unified_cgroup_hierarchy, config.unknown) == (unified, ())

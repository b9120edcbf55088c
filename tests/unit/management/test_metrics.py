"""A sandbox in numbers, with this test's own processes as its own and a made-up guest."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from kata.management import processes
from kata.management.durations import Durations
from kata.management.exposition import text_of
from kata.management.metrics import Metrics, Use, _share
from kata.protocol.generated import agent_pb2
from kata.sandbox.errors import GuestError


class Agent:
    """Says what it is told to say; nothing at all when that is None."""

    def __init__(self, text: str | None) -> None:
        self.text = text

    def metrics(self) -> str:
        if self.text is None:
            raise GuestError("the agent\nis gone")
        return self.text


class Container:
    """Uses what it is said to."""

    id = "c1"

    def __init__(self, memory: int, nanoseconds: int) -> None:
        self._use = memory, nanoseconds

    def stats(self) -> agent_pb2.StatsContainerResponse:
        stats = agent_pb2.StatsContainerResponse()
        stats.cgroup_stats.memory_stats.usage.usage, stats.cgroup_stats.cpu_stats.cpu_usage.total_usage = self._use
        return stats


class Sandbox:
    """One that has a VMM."""

    def __init__(self, agent: Agent, pid: int) -> None:
        self.agent = agent
        self.containers = [Container(4096, 10**9)]
        self.processes = {"hypervisor": pid}


def values(text: str) -> dict[str, float]:
    return {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if not line.startswith("#")
    }


def test_everything_is_there() -> None:
    rpcs, agent_rpcs = Durations(), Durations()
    rpcs.observe("create", 7.0)
    agent_rpcs.observe("grpc.CreateContainerRequest", 3.0)
    metrics = Metrics(Sandbox(Agent("kata_guest_tasks 3\n"), os.getpid()), rpcs, agent_rpcs)
    found = values(metrics.render())
    assert found['kata_shim_rpc_durations_histogram_milliseconds_count{action="create"}'] == 1
    name = 'kata_shim_agent_rpc_durations_histogram_milliseconds_bucket{action="grpc.CreateContainerRequest",le="4"}'
    assert found[name] == 1
    for prefix in ("kata_shim", "kata_hypervisor"):
        assert found[f"{prefix}_threads"] >= 1
        assert found[f"{prefix}_fds"] >= 3
        assert found[f'{prefix}_proc_status{{item="vmrss"}}'] > 1 << 20
        assert found[f'{prefix}_proc_stat{{item="utime"}}'] > 0
        assert found[f'{prefix}_io_stat{{item="rchar"}}'] > 0
        assert found[f'{prefix}_netdev{{interface="lo",item="recv_bytes"}}'] >= 0
    assert found["kata_guest_tasks"] == 3
    assert found["kata_shim_process_resident_memory_bytes"] > 1 << 20
    assert found["kata_shim_pod_overhead_memory_in_bytes"] > 1 << 20
    assert found["kata_shim_pod_overhead_cpu"] >= 0


def test_a_guest_that_says_nothing_takes_only_its_part_away() -> None:
    text = Metrics(Sandbox(Agent(None), os.getpid()), Durations(), Durations()).render()
    assert "kata_hypervisor_threads" in text
    assert text.endswith("# the guest said nothing: the agent is gone\n")


def test_a_process_that_is_gone_is_left_out() -> None:
    with subprocess.Popen([sys.executable, "-c", "pass"]) as child:
        child.wait()
    assert text_of(processes.families("x", "it", [child.pid], network=True)) == ""
    assert processes.family_of(child.pid) == [child.pid]
    assert processes.memory_bytes([child.pid]) == 0


def test_children_count_with_their_parent() -> None:
    script = "import subprocess, sys; p = subprocess.Popen(['cat'], stdin=0); print(p.pid, flush=True); p.wait()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert processes.family_of(parent.pid) == [parent.pid, child]
        parent.communicate()


def test_kernel_names_become_metric_items(tmp_path: Path) -> None:
    (folder := tmp_path / "7").mkdir()
    (folder / "stat").write_text("7 (a (b) c) S " + " ".join(str(number) for number in range(4, 53)))
    (folder / "status").write_text(
        "Name:\tx\nVmHWM:\t 3 kB\nRssAnon:\t1 kB\nThreads:\t9\nvoluntary_ctxt_switches:\t5\n"
    )
    (folder / "io").write_text("rchar: 1\ncancelled_write_bytes: 2\n")
    found = values(text_of(processes.families("x", "it", [7], network=False, proc=str(tmp_path))))
    assert found == {
        "x_threads": 20,
        **{f'x_proc_stat{{item="{name}"}}': 14 + n for n, name in enumerate(("utime", "stime", "cutime", "cstime"))},
        'x_proc_status{item="vmhwm"}': 3072,
        'x_proc_status{item="rssanon"}': 1024,
        'x_proc_status{item="voluntary_ctxt_switches"}': 5,
        'x_io_stat{item="rchar"}': 1,
        'x_io_stat{item="cancelledwritebytes"}': 2,
        "x_fds": 0,
    }


def test_the_share_of_the_cpu_beside_the_containers() -> None:
    before = Use(10.0, 5.0, {"old": 1.0, "both": 2.0})
    assert _share(before, Use(12.0, 8.0, {"both": 3.0, "new": 0.5})) == 75.0
    assert _share(before, Use(12.0, 5.5, {"both": 9.0})) == 0.0

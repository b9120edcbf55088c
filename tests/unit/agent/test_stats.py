"""Cgroup v2 files in the message's v1 shape."""

from __future__ import annotations

import socket
from pathlib import Path

from kata.agent.stats import collect

FILES = {
    "cpu.stat": "usage_usec 5000\nuser_usec 4000\nsystem_usec 1000\nnr_periods 3\nnr_throttled 2\nthrottled_usec 7\n",
    "memory.stat": "anon 10\nfile 20\nkernel 30\ninactive_file 5\n",
    "memory.current": "100\n",
    "memory.peak": "200\n",
    "memory.max": "max\n",
    "memory.events": "low 0\nmax 4\noom_kill 1\n",
    "memory.swap.current": "6\n",
    "pids.current": "2\n",
    "pids.max": "max\n",
    "io.stat": "254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n8:16 rbytes=9\n",
    "hugetlb.2MB.current": "4096\n",
    "hugetlb.2MB.events": "max 8\n",
    "hugetlb.1GB.rsvd.current": "1\n",
}


def test_every_value_in_its_place(tmp_path: Path) -> None:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    stats = collect(str(tmp_path)).cgroup_stats
    usage = stats.cpu_stats.cpu_usage
    assert (usage.total_usage, usage.usage_in_usermode, usage.usage_in_kernelmode) == (5_000_000, 4_000_000, 1_000_000)
    throttling = stats.cpu_stats.throttling_data
    assert (throttling.periods, throttling.throttled_periods, throttling.throttled_time) == (3, 2, 7000)
    memory = stats.memory_stats
    assert (memory.cache, memory.usage.usage, memory.usage.max_usage, memory.usage.failcnt) == (20, 100, 200, 4)
    assert memory.usage.limit == 2**64 - 1
    assert (memory.swap_usage.usage, memory.kernel_usage.usage) == (6, 30)
    assert memory.stats["inactive_file"] == 5
    assert (stats.pids_stats.current, stats.pids_stats.limit) == (2, 0)
    rows = {(row.major, row.minor, row.op): row.value for row in stats.blkio_stats.io_service_bytes_recursive}
    assert rows[254, 0, "Read"] == 1
    assert rows[254, 0, "Write"] == 2
    assert rows[8, 16, "Read"] == 9
    counts = {(row.major, row.minor, row.op): row.value for row in stats.blkio_stats.io_serviced_recursive}
    assert (counts[254, 0, "Read"], counts[254, 0, "Discard"]) == (3, 6)
    assert {size: (entry.usage, entry.failcnt) for size, entry in stats.hugetlb_stats.items()} == {"2MB": (4096, 8)}


def test_without_controllers_all_is_zero_but_the_network_is_there(tmp_path: Path) -> None:
    reply = collect(str(tmp_path))
    assert reply.cgroup_stats.memory_stats.usage.usage == 0
    names = {row.name for row in reply.network_stats}
    assert names >= {name for _, name in socket.if_nameindex()}

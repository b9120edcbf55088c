"""StatsContainer in a guest with cgroup v1, whose files the message's fields are named after.

Called by `service` there, and imported only then. Reads only. A controller that is not mounted counts as zeros.
"""

from __future__ import annotations

import os

from kata.agent.stats import networks
from kata.linux import cgroup
from kata.linux.fds import read_text
from kata.protocol.generated import agent_pb2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

BLOCK = {
    "blkio.throttle.io_service_bytes_recursive": "io_service_bytes_recursive",
    "blkio.throttle.io_serviced_recursive": "io_serviced_recursive",
}
NOWHERE = "/nonexistent"


def collect(folders: Mapping[str, str]) -> agent_pb2.StatsContainerResponse:
    """The statistics of the container with these cgroup folders by controller."""
    reply = agent_pb2.StatsContainerResponse()
    stats = reply.cgroup_stats
    _cpu(folders.get("cpuacct", NOWHERE), folders.get("cpu", NOWHERE), stats.cpu_stats)
    _memory(folders.get("memory", NOWHERE), stats.memory_stats)
    pids = folders.get("pids", NOWHERE)
    stats.pids_stats.current = cgroup.number(pids, "pids.current")
    limit = cgroup.number(pids, "pids.max")
    stats.pids_stats.limit = 0 if limit == cgroup.MAX else limit
    _block(folders.get("blkio", NOWHERE), stats.blkio_stats)
    _huge_pages(folders.get("hugetlb", NOWHERE), stats)
    networks(reply)
    return reply


def _cpu(usage: str, limits: str, stats: agent_pb2.CpuStats) -> None:
    stats.cpu_usage.total_usage = cgroup.number(usage, "cpuacct.usage")
    stats.cpu_usage.usage_in_usermode = cgroup.number(usage, "cpuacct.usage_user")
    stats.cpu_usage.usage_in_kernelmode = cgroup.number(usage, "cpuacct.usage_sys")
    stats.cpu_usage.percpu_usage.extend(_numbers(usage, "cpuacct.usage_percpu"))
    found = cgroup.flat(limits, "cpu.stat")
    stats.throttling_data.periods = found.get("nr_periods", 0)
    stats.throttling_data.throttled_periods = found.get("nr_throttled", 0)
    stats.throttling_data.throttled_time = found.get("throttled_time", 0)


def _numbers(folder: str, name: str) -> list[int]:
    try:
        return [int(word) for word in read_text(f"{folder}/{name}").split()]
    except OSError:
        return []


def _memory(folder: str, stats: agent_pb2.MemoryStats) -> None:
    found = cgroup.flat(folder, "memory.stat")
    stats.cache = found.get("cache", 0)
    stats.use_hierarchy = cgroup.number(folder, "memory.use_hierarchy") == 1
    for field, prefix in (
        (stats.usage, "memory"),
        (stats.swap_usage, "memory.memsw"),
        (stats.kernel_usage, "memory.kmem"),
    ):
        field.usage = cgroup.number(folder, f"{prefix}.usage_in_bytes")
        field.max_usage = cgroup.number(folder, f"{prefix}.max_usage_in_bytes")
        field.failcnt = cgroup.number(folder, f"{prefix}.failcnt")
        field.limit = cgroup.number(folder, f"{prefix}.limit_in_bytes")
    for key, value in found.items():
        stats.stats[key] = value


def _block(folder: str, stats: agent_pb2.BlkioStats) -> None:
    for name, field in BLOCK.items():
        try:
            lines = read_text(f"{folder}/{name}").splitlines()
        except OSError:
            continue
        for device, operation, value in (line.split() for line in lines if line.count(" ") == 2):
            major, _, minor = device.partition(":")
            getattr(stats, field).add(major=int(major), minor=int(minor), op=operation, value=int(value))


def _huge_pages(folder: str, stats: agent_pb2.CgroupStats) -> None:
    for name in os.listdir(folder) if os.path.isdir(folder) else ():
        prefix, _, rest = name.partition(".")
        size, _, what = rest.partition(".")
        if prefix == "hugetlb" and what == "usage_in_bytes":
            entry = stats.hugetlb_stats[size]
            entry.usage = cgroup.number(folder, name)
            entry.max_usage = cgroup.number(folder, f"hugetlb.{size}.max_usage_in_bytes")
            entry.failcnt = cgroup.number(folder, f"hugetlb.{size}.failcnt")

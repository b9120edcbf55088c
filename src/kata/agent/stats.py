"""StatsContainer: cgroup v2 files in the message's v1 shape, and the guest's network counters.

Reads only, under no lock. Units as in the message: nanoseconds, bytes. Where v2 has no such number the field
stays 0. `stats` of the memory message carries all keys of memory.stat under their v2 names.
"""

from __future__ import annotations

import os

from kata.linux import cgroup
from kata.linux.fds import read_text
from kata.protocol.generated import agent_pb2

IO_KEYS = {"rbytes": "Read", "wbytes": "Write", "dbytes": "Discard"}
IO_COUNTS = {"rios": "Read", "wios": "Write", "dios": "Discard"}


def collect(path: str) -> agent_pb2.StatsContainerResponse:
    """The statistics of the container whose cgroup directory is `path`.

    A file that is missing counts as zeros.
    """
    reply = agent_pb2.StatsContainerResponse()
    stats = reply.cgroup_stats
    _cpu(path, stats.cpu_stats)
    _memory(path, stats.memory_stats)
    stats.pids_stats.current = cgroup.number(path, "pids.current")
    limit = cgroup.number(path, "pids.max")
    stats.pids_stats.limit = 0 if limit == cgroup.MAX else limit
    _block(path, stats.blkio_stats)
    _huge_pages(path, stats)
    networks(reply)
    return reply


def networks(reply: agent_pb2.StatsContainerResponse) -> None:
    """Add the counters of all interfaces of the guest."""
    for name in sorted(os.listdir("/sys/class/net")):
        _network(name, reply)


def _cpu(path: str, stats: agent_pb2.CpuStats) -> None:
    found = cgroup.flat(path, "cpu.stat")
    stats.cpu_usage.total_usage = found.get("usage_usec", 0) * 1000
    stats.cpu_usage.usage_in_usermode = found.get("user_usec", 0) * 1000
    stats.cpu_usage.usage_in_kernelmode = found.get("system_usec", 0) * 1000
    stats.throttling_data.periods = found.get("nr_periods", 0)
    stats.throttling_data.throttled_periods = found.get("nr_throttled", 0)
    stats.throttling_data.throttled_time = found.get("throttled_usec", 0) * 1000


def _memory(path: str, stats: agent_pb2.MemoryStats) -> None:
    found = cgroup.flat(path, "memory.stat")
    events = cgroup.flat(path, "memory.events")
    stats.cache = found.get("file", 0)
    stats.use_hierarchy = True
    stats.usage.usage = cgroup.number(path, "memory.current")
    stats.usage.max_usage = cgroup.number(path, "memory.peak")
    stats.usage.failcnt = events.get("max", 0)
    stats.usage.limit = cgroup.number(path, "memory.max")
    stats.swap_usage.usage = cgroup.number(path, "memory.swap.current")
    stats.swap_usage.max_usage = cgroup.number(path, "memory.swap.peak")
    stats.swap_usage.limit = cgroup.number(path, "memory.swap.max")
    stats.kernel_usage.usage = found.get("kernel", 0)
    for key, value in found.items():
        stats.stats[key] = value


def _block(path: str, stats: agent_pb2.BlkioStats) -> None:
    for device, numbers in cgroup.nested(path, "io.stat").items():
        major, _, minor = device.partition(":")
        where = {"major": int(major), "minor": int(minor)}
        for key, op in IO_KEYS.items():
            stats.io_service_bytes_recursive.add(op=op, value=numbers.get(key, 0), **where)
        for key, op in IO_COUNTS.items():
            stats.io_serviced_recursive.add(op=op, value=numbers.get(key, 0), **where)


def _huge_pages(path: str, stats: agent_pb2.CgroupStats) -> None:
    for name in os.listdir(path):
        prefix, _, rest = name.partition(".")
        size, _, what = rest.partition(".")
        if prefix == "hugetlb" and what == "current":
            entry = stats.hugetlb_stats[size]
            entry.usage = cgroup.number(path, name)
            entry.failcnt = cgroup.flat(path, f"hugetlb.{size}.events").get("max", 0)


def _network(name: str, reply: agent_pb2.StatsContainerResponse) -> None:
    row = reply.network_stats.add(name=name)
    for kind in ("rx", "tx"):
        for what in ("bytes", "packets", "errors", "dropped"):
            try:
                value = int(read_text(f"/sys/class/net/{name}/statistics/{kind}_{what}"))
            except OSError:
                continue  # no network device but a file there (bonding_masters), or just removed
            setattr(row, f"{kind}_{what}", value)

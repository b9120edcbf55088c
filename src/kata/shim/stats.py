"""A container's counters in the form that containerd wants: cgroup v1's or v2's messages, by the *host's* hierarchy.

The agent counts in the guest, in one shape for both (protocol facts, sections 2 and 13). Pure functions.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from kata.protocol.generated.host import cgroups_v1_pb2, cgroups_v2_pb2

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from kata.protocol.generated import agent_pb2

BLOCK_LISTS = (
    "io_service_bytes_recursive",
    "io_serviced_recursive",
    "io_queued_recursive",
    "io_service_time_recursive",
    "io_wait_time_recursive",
    "io_merged_recursive",
    "io_time_recursive",
    "sectors_recursive",
)
NETWORK = ("rx_bytes", "rx_packets", "rx_errors", "rx_dropped", "tx_bytes", "tx_packets", "tx_errors", "tx_dropped")

FROM_V2 = {"rss": "anon", "cache": "file", "mapped_file": "file_mapped", "dirty": "file_dirty"}
FROM_V2 |= {"writeback": "file_writeback", "pg_fault": "pgfault", "pg_maj_fault": "pgmajfault"}
FROM_V2 |= {"rss_huge": "anon_thp"}
"""Names of cgroup v1's memory counters, and what cgroup v2 calls the same (the guest has v2)."""
UNLIMITED_V1 = (1 << 63) - 4096
"""What the kernel shows in memory.limit_in_bytes where there is no limit."""


def host_has_cgroup2(root: str = "/sys/fs/cgroup") -> bool:
    """Whether the host's hierarchy is cgroup v2 alone (a hybrid one counts as v1, as in containerd)."""
    return os.path.exists(f"{root}/cgroup.controllers")


def metrics(stats: agent_pb2.StatsContainerResponse, *, cgroup2: bool) -> tuple[str, Message]:
    """The type URL and the message for containerd."""
    if cgroup2:
        return "io.containerd.cgroups.v2.Metrics", metrics_v2(stats)
    return "io.containerd.cgroups.v1.Metrics", metrics_v1(stats)


def metrics_v1(stats: agent_pb2.StatsContainerResponse) -> cgroups_v1_pb2.Metrics:
    """Times stay nanoseconds. Memory counters that the guest has under v2's names come under v1's."""
    group = stats.cgroup_stats
    usage, throttling = group.cpu_stats.cpu_usage, group.cpu_stats.throttling_data
    made = cgroups_v1_pb2.Metrics(
        pids=cgroups_v1_pb2.PidsStat(current=group.pids_stats.current, limit=group.pids_stats.limit),
        cpu=cgroups_v1_pb2.CPUStat(
            usage=cgroups_v1_pb2.CPUUsage(
                total=usage.total_usage,
                kernel=usage.usage_in_kernelmode,
                user=usage.usage_in_usermode,
                per_cpu=usage.percpu_usage,
            ),
            throttling=cgroups_v1_pb2.Throttle(
                periods=throttling.periods,
                throttled_periods=throttling.throttled_periods,
                throttled_time=throttling.throttled_time,
            ),
        ),
        memory=_memory_v1(group.memory_stats),
        blkio=_block_v1(group.blkio_stats),
    )
    for size, pages in sorted(group.hugetlb_stats.items()):
        made.hugetlb.add(usage=pages.usage, max=pages.max_usage, failcnt=pages.failcnt, pagesize=size)
    for entry in stats.network_stats:
        made.network.add(name=entry.name, **{field: getattr(entry, field) for field in NETWORK})
    return made


def metrics_v2(stats: agent_pb2.StatsContainerResponse) -> cgroups_v2_pb2.Metrics:
    """Times become microseconds; block devices stay apart, user and system time are what they say they are."""
    group = stats.cgroup_stats
    usage, throttling = group.cpu_stats.cpu_usage, group.cpu_stats.throttling_data
    made = cgroups_v2_pb2.Metrics(
        pids=cgroups_v2_pb2.PidsStat(current=group.pids_stats.current, limit=group.pids_stats.limit),
        cpu=cgroups_v2_pb2.CPUStat(
            usage_usec=usage.total_usage // 1000,
            user_usec=usage.usage_in_usermode // 1000,
            system_usec=usage.usage_in_kernelmode // 1000,
            nr_periods=throttling.periods,
            nr_throttled=throttling.throttled_periods,
            throttled_usec=throttling.throttled_time // 1000,
        ),
        memory=_memory_v2(group.memory_stats),
        io=_block_v2(group.blkio_stats),
    )
    for size, pages in sorted(group.hugetlb_stats.items()):
        made.hugetlb.add(current=pages.usage, max=pages.max_usage, failcnt=pages.failcnt, pagesize=size)
    for entry in stats.network_stats:
        made.network.add(name=entry.name, **{field: getattr(entry, field) for field in NETWORK})
    return made


def _memory_v1(memory: agent_pb2.MemoryStats) -> cgroups_v1_pb2.MemoryStat:
    made = cgroups_v1_pb2.MemoryStat()
    for field in made.DESCRIPTOR.fields:
        name = field.name.removeprefix("total_")
        value = memory.stats.get(field.name, memory.stats.get(name, memory.stats.get(FROM_V2.get(name, ""), 0)))
        if value and field.message_type is None:
            setattr(made, field.name, value)
    made.cache = made.cache or memory.cache
    made.hierarchical_memory_limit = made.hierarchical_memory_limit or memory.usage.limit or UNLIMITED_V1
    for name, data in (("usage", memory.usage), ("swap", memory.swap_usage), ("kernel", memory.kernel_usage)):
        entry = getattr(made, name)
        entry.limit, entry.usage, entry.max, entry.failcnt = data.limit, data.usage, data.max_usage, data.failcnt
    return made


def _memory_v2(memory: agent_pb2.MemoryStats) -> cgroups_v2_pb2.MemoryStat:
    made = cgroups_v2_pb2.MemoryStat()
    for field in made.DESCRIPTOR.fields:
        if field.name in memory.stats and field.message_type is None:
            setattr(made, field.name, memory.stats[field.name])
    made.usage, made.usage_limit, made.max_usage = memory.usage.usage, memory.usage.limit, memory.usage.max_usage
    made.swap_usage, made.swap_limit = memory.swap_usage.usage, memory.swap_usage.limit
    made.swap_max_usage = memory.swap_usage.max_usage
    return made


def _block_v1(block: agent_pb2.BlkioStats) -> cgroups_v1_pb2.BlkIOStat:
    made = cgroups_v1_pb2.BlkIOStat()
    for name in BLOCK_LISTS:
        for entry in getattr(block, name):
            getattr(made, name).add(op=entry.op, major=entry.major, minor=entry.minor, value=entry.value)
    return made


def _block_v2(block: agent_pb2.BlkioStats) -> cgroups_v2_pb2.IOStat:
    devices: dict[tuple[int, int], dict[str, int]] = {}
    names = {"read": "r", "write": "w"}
    for entries, unit in ((block.io_service_bytes_recursive, "bytes"), (block.io_serviced_recursive, "ios")):
        for entry in entries:
            direction = names.get(entry.op.lower())
            if direction:
                devices.setdefault((entry.major, entry.minor), {})[direction + unit] = entry.value
    made = cgroups_v2_pb2.IOStat()
    for (major, minor), counters in sorted(devices.items()):
        made.usage.add(major=major, minor=minor, **counters)
    return made

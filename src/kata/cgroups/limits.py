"""What a sandbox's cgroup holds, as the kernel's files want it. Pure.

Kernel documentation: scheduler/sched-bwc.rst, admin-guide/cgroup-v1/{cpusets,memory,devices}.rst, cgroup-v2.rst.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

PERIOD = 100_000
"""Microseconds over which CPU time is counted, the kernel's own choice."""
LEAST_QUOTA = 1000
"""The least that the kernel takes, in microseconds."""


class Limits(NamedTuple):
    """What all containers of a sandbox may use together; None is no limit. `cpus` and `nodes` are cpuset lists."""

    cpu: float | None = None
    memory: int | None = None
    cpus: str = ""
    nodes: str = ""


class Write(NamedTuple):
    """One value for one file of a cgroup."""

    controller: str
    file: str
    value: str


class Rule(NamedTuple):
    """One rule of devices that may be used; -1 is any number."""

    kind: str
    major: int
    minor: int
    access: str = "rwm"

    def line(self) -> str:
        """As devices.allow reads it."""
        return f"{self.kind} {_number(self.major)}:{_number(self.minor)} {self.access}"


def writes(limits: Limits, version: int) -> list[Write]:
    """What to write into a cgroup of this version.

    v2 gets no limit of memory: there the whole VMM is in the cgroup, whose own needs no container has asked for. Its
    memory is bounded by the machine's size.
    """
    found = [Write("cpuset", "cpuset.cpus", limits.cpus)] if limits.cpus else []
    found += [Write("cpuset", "cpuset.mems", limits.nodes)] if limits.nodes else []
    quota = -1 if limits.cpu is None else max(LEAST_QUOTA, round(limits.cpu * PERIOD))
    if version == 2:
        return [*found, Write("cpu", "cpu.max", f"{'max' if quota < 0 else quota} {PERIOD}")]
    memory = -1 if limits.memory is None else limits.memory
    return [
        *found,
        Write("cpu", "cpu.cfs_period_us", str(PERIOD)),
        Write("cpu", "cpu.cfs_quota_us", str(quota)),
        Write("memory", "memory.limit_in_bytes", str(memory)),
    ]


def device_rules(vfio_majors: Iterable[int] = ()) -> list[Rule]:
    """Devices that shim, VMM and daemons need themselves (numbers: kernel, admin-guide/devices.txt).

    Any block device may be opened: the disks of containers are, by the shim, and the VMM has no capability to reach
    one by itself. Nodes may be made of anything; that opens nothing.
    """
    memory = [Rule("c", 1, minor) for minor in (3, 5, 7, 8, 9)]  # null, zero, full, random, urandom
    terminals = [Rule("c", 5, minor) for minor in (0, 1, 2)] + [Rule("c", 136, -1)]  # tty, console, ptmx, pts
    # tun, fuse, kvm, loop-control, vhost-net, vhost-vsock, vfio
    special = [Rule("c", 10, minor) for minor in (200, 229, 232, 237, 238, 241, 196)]
    groups = [Rule("c", major, -1) for major in vfio_majors]
    return [*memory, *terminals, *special, *groups, Rule("b", -1, -1), Rule("c", -1, -1, "m")]


def majors(proc_devices: str, name: str) -> list[int]:
    """The numbers of the character devices of a driver in /proc/devices."""
    characters = proc_devices.partition("Block devices")[0].splitlines()
    return [int(line.split()[0]) for line in characters if line.split()[1:] == [name]]


def _number(value: int) -> str:
    return "*" if value < 0 else str(value)

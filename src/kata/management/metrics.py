"""Everything that `/metrics` says of one sandbox: this process, the VMM and virtiofsd, the guest, what a pod costs.

Called by `routes`. A guest that does not answer takes its own part away, not the rest.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, NamedTuple, Protocol

from kata.errors import KataError
from kata.management import processes
from kata.management.exposition import Family, Sample, histogram, of_guest, text_of
from kata.plain import plain

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from kata.management.durations import Durations
    from kata.protocol.generated import agent_pb2

SHIM = "kata_shim"
VMM = "hypervisor"
LATENCY = "RPC latency distributions."


class CountedContainer(Protocol):
    """A container whose use is known."""

    @property
    def id(self) -> str:
        """Its id."""

    def stats(self) -> agent_pb2.StatsContainerResponse:
        """What it uses. Raises KataError."""


class MeasuredAgent(Protocol):
    """The guest's agent, as far as it is asked for numbers."""

    def metrics(self) -> str:
        """Guest and agent as Prometheus text. Raises KataError."""


class Measured(Protocol):
    """A sandbox that can be measured."""

    @property
    def agent(self) -> MeasuredAgent:
        """Its agent. Raises KataError when it has ended."""

    @property
    def containers(self) -> Sequence[CountedContainer]:
        """Its containers."""

    @property
    def processes(self) -> Mapping[str, int]:
        """Its processes on this host."""


class Use(NamedTuple):
    """CPU seconds that the host has spent `at` a time, and containers by their ids."""

    at: float
    cpu: float
    containers: dict[str, float]


class Metrics:
    """Renders the metrics of a sandbox. `rpcs` and `agent_rpcs` are the durations of calls that were answered, made."""

    def __init__(self, sandbox: Measured, rpcs: Durations, agent_rpcs: Durations, proc: str = "/proc") -> None:
        self._sandbox = sandbox
        self._rpcs = rpcs
        self._agent_rpcs = agent_rpcs
        self._proc = proc
        self._lock = threading.Lock()
        self._before = Use(time.monotonic(), processes.cpu_seconds(self._pids(), proc), {})

    def render(self) -> str:
        """All of it, now."""
        text = text_of(self._host())
        try:
            guest = of_guest(self._sandbox.agent.metrics())
            return text + text_of(self._overhead()) + guest
        except KataError as error:
            return f"{text}# the guest said nothing: {plain(error.what)}\n"

    def _host(self) -> Iterator[Family]:
        yield histogram(f"{SHIM}_rpc_durations_histogram_milliseconds", LATENCY, self._rpcs)
        yield histogram(f"{SHIM}_agent_rpc_durations_histogram_milliseconds", LATENCY, self._agent_rpcs)
        yield from processes.own(SHIM, self._proc)
        yield from processes.families(SHIM, "the sandbox's process", [os.getpid()], network=True, proc=self._proc)
        for name, pid in self._sandbox.processes.items():
            pids = processes.family_of(pid, self._proc)
            yield from processes.families(f"kata_{name}", name, pids, network=name == VMM, proc=self._proc)

    def _overhead(self) -> Iterator[Family]:
        """What the host spends beyond what containers use: CPU since the last time, memory now."""
        memory, containers = 0.0, {}
        for container in self._sandbox.containers:
            stats = container.stats().cgroup_stats
            memory += stats.memory_stats.usage.usage
            containers[container.id] = stats.cpu_stats.cpu_usage.total_usage / 1e9
        now = Use(time.monotonic(), processes.cpu_seconds(self._pids(), self._proc), containers)
        with self._lock:
            before, self._before = self._before, now
        total = processes.memory_bytes(self._pids(), self._proc)
        text = "CPU time beside the containers', in percent of one CPU."
        yield Family(f"{SHIM}_pod_overhead_cpu", text, [Sample(_share(before, now))])
        text = "Memory beside the containers', in bytes."
        yield Family(f"{SHIM}_pod_overhead_memory_in_bytes", text, [Sample(max(0.0, total - memory))])

    def _pids(self) -> list[int]:
        """Every process of the sandbox on this host."""
        helpers = [one for pid in self._sandbox.processes.values() for one in processes.family_of(pid, self._proc)]
        return [os.getpid(), *helpers]


def _share(before: Use, now: Use) -> float:
    """Percent of one CPU that the host spent between two looks, beyond what containers used."""
    inside = sum(max(0.0, used - before.containers.get(name, 0.0)) for name, used in now.containers.items())
    elapsed = max(now.at - before.at, 0.001)
    return max(0.0, round((now.cpu - before.cpu - inside) * 100 / elapsed, 3))

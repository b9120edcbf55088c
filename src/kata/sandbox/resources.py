"""How large a sandbox's machine is: its own share plus what its containers may use (shim behaviour, section 8).

Called when a sandbox starts. Pure: limits in, a size out.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kata.oci.spec import LinuxResources, Spec

MIB = 1 << 20
SANDBOX_PREFIX = "io.kubernetes.cri.sandbox-"
"""containerd says what all containers of a pod may use together in annotations of the pod's first one."""


class Workload(NamedTuple):
    """What containers may use: `cpus` as a fraction, 0 for no limit; `memory_mib` likewise."""

    cpus: float = 0.0
    memory_mib: int = 0


def workload_of(spec: Spec, annotations: Mapping[str, str]) -> Workload:
    """The limits of a whole pod, by its annotations; else those of the specification itself."""
    pod = _of_annotations(annotations)
    return pod if pod != Workload() else of_resources(spec.get("linux", {}).get("resources", {}))


def of_resources(resources: LinuxResources) -> Workload:
    """The limits of one container."""
    cpu, memory = resources.get("cpu", {}), resources.get("memory", {})
    cpus = _cpus(cpu.get("quota", 0), cpu.get("period", 0), 0)
    return Workload(cpus, max(0, memory.get("limit") or 0) // MIB)


def vcpus(default: float, work: Workload, most: int) -> int:
    """CPUs of the machine; fractions are added up first and rounded once. At least 1, at most `most`."""
    return max(1, min(math.ceil(default + work.cpus), most))


def memory_mib(default: int, work: Workload, most: int) -> int:
    """MiB of the machine, at most `most`."""
    return min(default + work.memory_mib, most)


def _of_annotations(annotations: Mapping[str, str]) -> Workload:
    def number(name: str) -> int:
        text = annotations.get(SANDBOX_PREFIX + name, "")
        return int(text) if text.removeprefix("-").isdecimal() and text.isascii() and len(text) < 20 else 0

    cpus = _cpus(number("cpu-quota"), number("cpu-period"), number("cpu-shares"))
    return Workload(cpus, max(0, number("memory")) // MIB)


def _cpus(quota: int, period: int, shares: int) -> float:
    """CPUs of a quota and period (microseconds); without a quota, what shares come to (1024 is one CPU)."""
    if quota > 0 and period > 0:
        return quota / period
    return float(math.ceil(shares / 1024)) if quota < 0 and shares > 0 else 0.0

"""How large a sandbox's machine is: its own share plus what its containers may use (shim behaviour, section 8).

Called when a sandbox starts and whenever its containers' limits change. Pure: limits in, a size out.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, NamedTuple, cast

from kata.cgroups.limits import Limits, Rule

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from kata.oci.spec import LinuxResources, Spec

MIB = 1 << 20
CONTAINER_TYPE, PAUSE = "io.katacontainers.pkg.oci.container_type", "pod_sandbox"
NO_LIMIT = 1 << 60
"""Limits in bytes from here on are none (the kernel shows the largest number of pages where there is no limit)."""
SANDBOX_PREFIX = "io.kubernetes.cri.sandbox-"
"""containerd says what all containers of a pod may use together in annotations of the pod's first one."""


class Workload(NamedTuple):
    """What containers may use: `cpus` as a fraction, 0 for no limit; `memory_mib` likewise."""

    cpus: float = 0.0
    memory_mib: int = 0


def workload_of(spec: Spec, announced: Workload) -> Workload:
    """The limits of a whole pod, as `announced`; else those of the specification itself."""
    return announced if announced != Workload() else of_containers([spec.get("linux", {}).get("resources", {})])


def of_containers(containers: Sequence[LinuxResources]) -> Workload:
    """What all of them may use together. Without a single CPU quota, the CPUs that they are bound to count."""
    single = [_of_resources(resources) for resources in containers]
    cpus = sum(work.cpus for work in single) or float(len(cpuset(containers)))
    return Workload(cpus, sum(work.memory_mib for work in single))


def cpuset(containers: Iterable[LinuxResources]) -> frozenset[int]:
    """The host's CPUs that any of them is bound to."""
    bound = (_list(resources.get("cpu", {}).get("cpus", "")) for resources in containers)
    return frozenset(cpu for cpus in bound for cpu in cpus)


def counts(spec: Spec, annotations: Mapping[str, str]) -> bool:
    """Whether a container's limits are somebody's: those of a pod's pause container are not."""
    kind = {**spec.get("annotations", {}), **annotations}.get(CONTAINER_TYPE, "")
    return kind != PAUSE


def host_limits(containers: Sequence[LinuxResources], own_vcpus: float) -> Limits:
    """What the host's cgroup of the guest's CPUs holds: what all containers may use, if none may use all.

    The guest needs CPU time beside its containers' (its agent would else miss its deadlines), as it has CPUs for it.
    """
    single = [_of_resources(resources) for resources in containers]
    quota = bool(single) and all(work.cpus for work in single)
    memory = [memory_limit(resources) for resources in containers]
    bound = [resources.get("cpu", {}).get("cpus", "") for resources in containers]
    nodes = {resources.get("cpu", {}).get("mems", "") for resources in containers}
    return Limits(
        cpu=own_vcpus + sum(work.cpus for work in single) if quota else None,
        memory=sum(memory) if memory and all(memory) else None,
        cpus=",".join(map(str, sorted(cpuset(containers)))) if bound and all(bound) else "",
        nodes=nodes.pop() if len(nodes) == 1 else "",
    )


def device_rules(resources: LinuxResources) -> list[Rule]:
    """The devices of the host that a container may use."""
    return [
        Rule(rule.get("type") or "a", _any(rule.get("major")), _any(rule.get("minor")), rule.get("access") or "rwm")
        for rule in resources.get("devices", [])
        if rule.get("allow")
    ]


def source_rules(path: str) -> list[Rule]:
    """The device from which the VMM takes random numbers, where that is a device of its own."""
    number = os.stat(path).st_rdev if path else 0
    return [Rule("c", os.major(number), os.minor(number), "r")] if number else []


def _any(number: int | None) -> int:
    return -1 if number is None else number


def updated(old: LinuxResources, new: LinuxResources) -> LinuxResources:
    """Limits after an update, which names only those that change."""
    result: dict[str, object] = dict(old)
    for key, value in new.items():
        before = result.get(key)
        result[key] = {**before, **value} if isinstance(before, dict) and isinstance(value, dict) else value
    return cast("LinuxResources", result)


def _of_resources(resources: LinuxResources) -> Workload:
    cpu = resources.get("cpu", {})
    cpus = _cpus(cpu.get("quota", 0), cpu.get("period", 0), 0)
    huge = sum(entry.get("limit", 0) for entry in resources.get("hugepageLimits", []))
    return Workload(cpus, (memory_limit(resources) + huge) // MIB)


def memory_limit(resources: LinuxResources) -> int:
    """The limit of memory in bytes, 0 without one; -1 and the kernel's largest number are none."""
    limit = resources.get("memory", {}).get("limit") or 0
    return limit if 0 < limit < NO_LIMIT else 0


def vcpus(default: float, work: Workload, most: int) -> int:
    """CPUs of the machine; fractions are added up first and rounded once. At least 1, at most `most`."""
    return max(1, min(math.ceil(default + work.cpus), most))


def memory_mib(default: int, work: Workload, most: int) -> int:
    """MiB of the machine, at most `most`."""
    return min(default + work.memory_mib, most)


def announced(annotations: Mapping[str, str]) -> Workload:
    """What all containers of a pod may use, as the engine says in the annotations of the first one."""

    def number(name: str) -> int:
        text = annotations.get(SANDBOX_PREFIX + name, "")
        return int(text) if text.removeprefix("-").isdecimal() and text.isascii() and len(text) < 20 else 0

    cpus = _cpus(number("cpu-quota"), number("cpu-period"), number("cpu-shares"))
    return Workload(cpus, max(0, number("memory")) // MIB)


def _list(text: str) -> list[int]:
    """A list of CPUs (cpuset(7)): "0-2,5" is 0, 1, 2, 5. What is no list binds to nothing."""
    numbers: list[int] = []
    for part in filter(None, text.replace(" ", "").split(",")):
        first, _, last = part.partition("-")
        if not (first.isdecimal() and (last or first).isdecimal() and len(part) < 12):
            return []
        numbers += range(int(first), min(int(last or first), 4095) + 1)
    return numbers


def _cpus(quota: int, period: int, shares: int) -> float:
    """CPUs of a quota and period (microseconds); without a quota, what shares come to (1024 is one CPU)."""
    if quota > 0 and period > 0:
        return quota / period
    return float(math.ceil(shares / 1024)) if quota < 0 and shares > 0 else 0.0

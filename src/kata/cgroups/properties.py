"""What systemd is told of a scope, as the values of its D-Bus interface. Pure.

Sources: org.freedesktop.systemd1(5), systemd.resource-control(5), systemd.scope(5).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from kata.cgroups.limits import LEAST_QUOTA, PERIOD, Limits, Rule

Property = tuple[str, tuple[str, object]]

NO_LIMIT = (1 << 64) - 1
SECOND = 1_000_000
"""Microseconds."""
KINDS = {"b": "block", "c": "char", "u": "char"}


def scope_properties(slice_name: str, pids: Sequence[int], about: str) -> list[Property]:
    """A scope that is ours to divide, that nothing but its slice bounds, and that leaves no name behind when it fails.

    Without the default dependencies it is not stopped first when the host goes down: its engine ends it, as it ends
    its other containers.
    """
    accounting = [(f"{what}Accounting", ("b", True)) for what in ("CPU", "Memory", "IO", "Tasks")]
    return [
        ("Description", ("s", about)),
        ("Slice", ("s", slice_name)),
        ("Delegate", ("b", True)),
        ("DefaultDependencies", ("b", False)),
        ("CollectMode", ("s", "inactive-or-failed")),
        ("TasksMax", ("t", NO_LIMIT)),
        ("PIDs", ("au", list(pids))),
        *accounting,
    ]


def limit_properties(limits: Limits, versions: Mapping[str, int]) -> list[list[Property]]:
    """Changes to make one after the other; `versions` says in which version of cgroups a controller is.

    The period is systemd's default too. CPUs to be bound to are apart, since older systemds do not know them, and
    with v1 none does. As in `limits.writes`, only v1 gets a limit of memory.
    """
    quota = NO_LIMIT if limits.cpu is None else max(LEAST_QUOTA, round(limits.cpu * PERIOD)) * (SECOND // PERIOD)
    first: list[Property] = [("CPUQuotaPerSecUSec", ("t", quota))] if "cpu" in versions else []
    if versions.get("memory") == 1:
        first.append(("MemoryLimit", ("t", NO_LIMIT if limits.memory is None else limits.memory)))
    bound: list[Property] = []
    if versions.get("cpuset") == 2:
        bound += [("AllowedCPUs", ("ay", bitmap(limits.cpus)))] if limits.cpus else []
        bound += [("AllowedMemoryNodes", ("ay", bitmap(limits.nodes)))] if limits.nodes else []
    return [changes for changes in (first, bound) if changes]


def rule_properties(rules: Iterable[Rule], proc_devices: str) -> list[Property]:
    """Devices that may be used, beside those that were told before; everything else is forbidden.

    `proc_devices` is /proc/devices, which has the drivers' names. An empty list would take back all that was told.
    """
    found = [entry for rule in rules for entry in _entries(rule, proc_devices)]
    allowed: list[Property] = [("DeviceAllow", ("a(ss)", list(dict.fromkeys(found))))] if found else []
    return [("DevicePolicy", ("s", "strict")), *allowed]


def bitmap(cpus: str) -> bytes:
    """A cpuset list (cpuset(7)) as bits, the lowest of the first byte is number 0."""
    bits = 0
    for part in filter(None, cpus.split(",")):
        first, _, last = part.partition("-")
        for number in range(int(first), int(last or first) + 1):
            bits |= 1 << number
    return bits.to_bytes((bits.bit_length() + 7) // 8, "little")


def _entries(rule: Rule, proc_devices: str) -> list[tuple[str, str]]:
    """systemd names a device by its node, all of a driver by the driver, all of a kind by an asterisk."""
    kinds = ["block", "char"] if rule.kind == "a" else [KINDS.get(rule.kind, "")]
    if not kinds[0]:
        return []
    if rule.major < 0:
        return [(f"{kind}-*", rule.access) for kind in kinds]
    if rule.minor >= 0:
        return [(f"/dev/{kind}/{rule.major}:{rule.minor}", rule.access) for kind in kinds]
    return [(f"{kind}-{name}", rule.access) for kind in kinds for name in _drivers(proc_devices, kind, rule.major)]


def _drivers(proc_devices: str, kind: str, major: int) -> list[str]:
    characters, _, blocks = proc_devices.partition("Block devices")
    lines = (line.split(maxsplit=1) for line in (characters if kind == "char" else blocks).splitlines())
    return [words[1].strip() for words in lines if len(words) == 2 and words[0] == str(major)]

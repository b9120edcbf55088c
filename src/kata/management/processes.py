"""What /proc says of the host processes of a sandbox, as metrics: threads, descriptors, times, memory, input, output.

Names and items are upstream's (shim behaviour, section 12); sizes are in bytes, times in clock ticks (proc(5)). A
process that has ended meanwhile is left out.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from kata.management.exposition import Family, Sample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    Reader = Callable[[int, str], Iterable[tuple[str, int]]]

TIMES = ("utime", "stime", "cutime", "cstime")
STATUS_ITEM = re.compile(r"Vm\w+|Rss\w+|HugetlbPages|(non)?voluntary_ctxt_switches")
NET_ITEMS = tuple(
    [f"recv_{item}" for item in ("bytes", "packets", "errs", "drop", "fifo", "frame", "compressed", "multicast")]
    + [f"sent_{item}" for item in ("bytes", "packets", "errs", "drop", "fifo", "colls", "carrier", "compressed")]
)


def families(prefix: str, what: str, pids: Sequence[int], *, network: bool, proc: str = "/proc") -> Iterator[Family]:
    """The metrics of processes, added up; `prefix` as `kata_hypervisor`. The first one's network devices."""
    stats = [stat for one in pids if (stat := _stat(one, proc))]
    if not stats:
        return
    times = {name: sum(int(stat[11 + place]) for stat in stats) for place, name in enumerate(TIMES)}
    yield _one(f"{prefix}_threads", f"Threads of {what}.", sum(int(stat[17]) for stat in stats))
    yield _one(f"{prefix}_fds", f"Open descriptors of {what}.", sum(_count_fds(one, proc) for one in pids))
    yield _items(f"{prefix}_proc_stat", f"Times of {what} in clock ticks.", times)
    yield _items(f"{prefix}_proc_status", f"Status of {what}; sizes in bytes.", _total(_status, pids, proc))
    yield _items(f"{prefix}_io_stat", f"Input and output of {what}.", _total(_io, pids, proc))
    if network:
        yield Family(f"{prefix}_netdev", f"Network devices that {what} sees.", list(_network(pids[0], proc)))


def own(prefix: str, proc: str = "/proc") -> Iterator[Family]:
    """What Prometheus's clients say of their own process, for this one."""
    stat, ticks = _stat(os.getpid(), proc), os.sysconf("SC_CLK_TCK")
    if not stat:
        return
    started = boot_time(proc) + int(stat[19]) / ticks
    seconds = (int(stat[11]) + int(stat[12])) / ticks
    pages = os.sysconf("SC_PAGE_SIZE")
    yield _one(f"{prefix}_process_cpu_seconds_total", "User and system time in seconds.", seconds, "counter")
    yield _one(f"{prefix}_process_open_fds", "Open descriptors.", _count_fds(os.getpid(), proc))
    yield _one(f"{prefix}_process_max_fds", "Limit of open descriptors.", os.sysconf("SC_OPEN_MAX"))
    yield _one(f"{prefix}_process_virtual_memory_bytes", "Virtual memory in bytes.", int(stat[20]))
    yield _one(f"{prefix}_process_resident_memory_bytes", "Resident memory in bytes.", int(stat[21]) * pages)
    yield _one(f"{prefix}_process_start_time_seconds", "Start since the epoch in seconds.", started)


def cpu_seconds(pids: Sequence[int], proc: str = "/proc") -> float:
    """User and system time of processes, and of their children that have ended."""
    ticks = sum(sum(map(int, stat[11:15])) for pid in pids if (stat := _stat(pid, proc)))
    return ticks / os.sysconf("SC_CLK_TCK")


def memory_bytes(pids: Sequence[int], proc: str = "/proc") -> int:
    """Proportional set size of processes: what they share is counted once."""
    return sum(_pss(pid, proc) for pid in pids)


def family_of(pid: int, proc: str = "/proc") -> list[int]:
    """A process, the processes that come from it, and those that come from them."""
    found = [pid]
    for task in _listed(f"{proc}/{pid}/task"):
        for child in _text(f"{proc}/{pid}/task/{task}/children").split():
            found += family_of(int(child), proc)
    return found


def boot_time(proc: str = "/proc") -> int:
    """When this host started, in seconds since the epoch."""
    return next((int(line[6:]) for line in _text(f"{proc}/stat").splitlines() if line.startswith("btime ")), 0)


def _one(name: str, text: str, value: float, kind: str = "gauge") -> Family:
    return Family(name, text, [Sample(value)], kind)


def _items(name: str, text: str, values: dict[str, int]) -> Family:
    return Family(name, text, [Sample(value, (("item", item),)) for item, value in values.items()])


def _total(read: Reader, pids: Sequence[int], proc: str) -> dict[str, int]:
    total: dict[str, int] = {}
    for pid in pids:
        for item, value in read(pid, proc):
            total[item] = total.get(item, 0) + value
    return total


def _stat(pid: int, proc: str) -> list[str]:
    """The fields from the third on, which stand behind the command's name; empty for a process that is gone."""
    return _text(f"{proc}/{pid}/stat").rpartition(")")[2].split()


def _status(pid: int, proc: str) -> Iterator[tuple[str, int]]:
    for line in _text(f"{proc}/{pid}/status").splitlines():
        name, _, rest = line.partition(":")
        if STATUS_ITEM.fullmatch(name):
            value, *unit = rest.split()
            yield name.lower(), int(value) * (1024 if unit else 1)


def _io(pid: int, proc: str) -> Iterator[tuple[str, int]]:
    for line in _text(f"{proc}/{pid}/io").splitlines():
        name, _, value = line.partition(":")
        yield name.replace("_", ""), int(value)


def _network(pid: int, proc: str) -> Iterator[Sample]:
    for line in _text(f"{proc}/{pid}/net/dev").splitlines()[2:]:
        name, _, values = line.rpartition(":")
        for item, value in zip(NET_ITEMS, values.split(), strict=False):
            yield Sample(float(value), (("interface", name.strip()), ("item", item)))


def _pss(pid: int, proc: str) -> int:
    for line in _text(f"{proc}/{pid}/smaps_rollup").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def _count_fds(pid: int, proc: str) -> int:
    return len(_listed(f"{proc}/{pid}/fd"))


def _listed(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""

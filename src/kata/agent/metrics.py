"""GetMetrics: the guest and the agent itself as Prometheus text (exposition format 0.0.4).

Called by `service.observe`, which imports it at first use. Reads /proc only and keeps nothing but the count of
scrapes. Names, labels and items are upstream's (its metrics design document); units are those of /proc, except
where a name says bytes or seconds. A file that this kernel lacks leaves its family out.
"""

from __future__ import annotations

import itertools
import os
import re
from typing import NamedTuple

from kata.linux.fds import read_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

CPU_ITEMS = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest", "guest_nice")
NET_ITEMS = tuple(
    [f"recv_{item}" for item in ("bytes", "packets", "errs", "drop", "fifo", "frame", "compressed", "multicast")]
    + [f"sent_{item}" for item in ("bytes", "packets", "errs", "drop", "fifo", "colls", "carrier", "compressed")]
)
DISK_ITEMS = (
    *("reads", "merged", "sectors_read", "time_reading"),
    *("writes", "writes_merged", "sectors_written", "time_writing"),
    *("in_progress", "time_in_progress", "weighted_time_in_progress"),
    *("discards", "discards_merged", "sectors_discarded", "time_discarding", "flushes", "time_flushing"),
)
STATUS_ITEMS = re.compile(r"Vm\w+|Rss\w+|HugetlbPages|(non)?voluntary_ctxt_switches")
CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
SCRAPES = itertools.count(1)


class Sample(NamedTuple):
    """One value with its labels."""

    labels: tuple[tuple[str, str], ...]
    value: float


class Family(NamedTuple):
    """All samples of one name."""

    name: str
    help: str
    samples: Sequence[Sample]
    type: str = "gauge"


def render(proc: str = "/proc") -> str:
    """Everything there is to say now, as Prometheus text."""
    return "".join(map(text_of, collect(proc)))


def collect(proc: str = "/proc") -> Iterator[Family]:
    """The families that this kernel has the files for."""
    for read in READERS:
        try:
            families = list(read(proc))
        except FileNotFoundError:
            continue
        yield from (family for family in families if family.samples)


def text_of(family: Family) -> str:
    """One family in the exposition format."""
    lines = [f"# HELP {family.name} {_escape(family.help)}", f"# TYPE {family.name} {family.type}"]
    for sample in family.samples:
        labels = ",".join(f'{name}="{_escape(value, quote=True)}"' for name, value in sample.labels)
        lines.append(f"{family.name}{{{labels}}} {_number(sample.value)}" if labels else _bare(family.name, sample))
    return "\n".join(lines) + "\n"


def _bare(name: str, sample: Sample) -> str:
    return f"{name} {_number(sample.value)}"


def _escape(text: str, *, quote: bool = False) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quote else text


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def _items(pairs: Sequence[tuple[str, float]], *labels: tuple[str, str]) -> list[Sample]:
    return [Sample((*labels, ("item", item)), value) for item, value in pairs]


def _single(name: str, text: str, value: float, kind: str = "gauge") -> Family:
    return Family(name, text, [Sample((), value)], kind)


# Section: the guest


def _load(proc: str) -> Iterator[Family]:
    one, five, fifteen, tasks, _ = read_text(f"{proc}/loadavg").split()
    loads = [("load1", float(one)), ("load5", float(five)), ("load15", float(fifteen))]
    yield Family("kata_guest_load", "Guest system load.", _items(loads))
    running, _, total = tasks.partition("/")
    counts = [("cur", float(running)), ("max", float(total))]
    yield Family("kata_guest_tasks", "Guest tasks: runnable now, and all.", _items(counts))


def _cpu(proc: str) -> Iterator[Family]:
    ticks = os.sysconf("SC_CLK_TCK")
    samples = []
    for line in read_text(f"{proc}/stat").splitlines():
        name, *values = line.split()
        if name.startswith("cpu"):
            pairs = [(item, int(value) * 1000 / ticks) for item, value in zip(CPU_ITEMS, values, strict=False)]
            samples += _items(pairs, ("cpu", name[3:] or "total"))
    yield Family("kata_guest_cpu_time", "Guest CPU time in milliseconds.", samples)


def _vm_stat(proc: str) -> Iterator[Family]:
    pairs = [line.split() for line in read_text(f"{proc}/vmstat").splitlines()]
    yield Family("kata_guest_vm_stat", "Guest virtual memory.", _items([(name, int(value)) for name, value in pairs]))


def _meminfo(proc: str) -> Iterator[Family]:
    pairs = []
    for line in read_text(f"{proc}/meminfo").splitlines():
        name, _, rest = line.partition(":")
        value, *unit = rest.split()
        pairs.append((meminfo_item(name), int(value) * (1024 if unit else 1)))
    yield Family("kata_guest_meminfo", "Guest memory in bytes; huge pages by number.", _items(pairs))


def meminfo_item(name: str) -> str:
    """A name of /proc/meminfo in the metric's spelling: `Active(anon)` is `active_anon`."""
    known = {"HardwareCorrupted": "hardware_corrupted", "Percpu": "per_cpu", "NFS_Unstable": "nfs_unstable"}
    if name in known:
        return known[name]
    if name.startswith("DirectMap"):
        return f"direct_map_{name[9:]}"
    words = name.replace("HugePages", "Hugepages").replace("KReclaimable", "K_reclaimable")
    words = words.replace("SReclaimable", "S_reclaimable").replace("SUnreclaim", "S_unreclaim")
    return CAMEL.sub("_", words.replace("(", "_").replace(")", "")).replace("__", "_").lower()


def _network(proc: str) -> Iterator[Family]:
    samples = []
    for line in read_text(f"{proc}/net/dev").splitlines()[2:]:
        name, _, values = line.rpartition(":")
        numbers = [float(value) for value in values.split()]
        samples += _items(list(zip(NET_ITEMS, numbers, strict=False)), ("interface", name.strip()))
    yield Family("kata_guest_netdev_stat", "Guest network devices.", samples)


def _disks(proc: str) -> Iterator[Family]:
    samples = []
    for line in read_text(f"{proc}/diskstats").splitlines():
        _, _, name, *values = line.split()
        numbers = [float(value) for value in values]
        samples += _items(list(zip(DISK_ITEMS, numbers, strict=False)), ("disk", name))
    yield Family("kata_guest_diskstat", "Guest disks.", samples)


def _filesystems(proc: str) -> Iterator[Family]:
    """The file systems on block devices; statvfs of any other could block on a server or a host."""
    sizes: list[Sample] = []
    inodes: list[Sample] = []
    seen = set()
    for line in read_text(f"{proc}/self/mounts").splitlines():
        device, mount, *_ = (_unescape(word) for word in line.split(" "))
        if not device.startswith("/dev/") or device in seen:
            continue
        try:
            found = os.statvfs(mount)
        except OSError:
            continue  # hidden below another mount, or gone meanwhile
        seen.add(device)
        labels = (("mount", mount), ("device", device))
        used, free = (found.f_blocks - found.f_bfree) * found.f_frsize, found.f_bavail * found.f_frsize
        sizes += _items([("total", found.f_blocks * found.f_frsize), ("used", used), ("available", free)], *labels)
        used = found.f_files - found.f_ffree
        inodes += _items([("total", found.f_files), ("used", used), ("available", found.f_favail)], *labels)
    yield Family("kata_guest_filesystem_bytes", "Guest file systems on block devices: bytes.", sizes)
    yield Family("kata_guest_filesystem_inodes", "Guest file systems on block devices: inodes.", inodes)


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


# Section: the agent


def _scrapes(proc: str) -> Iterator[Family]:
    yield _single("kata_agent_scrape_count", "Scrapes so far, with this one.", next(SCRAPES), "counter")


def _process(proc: str) -> Iterator[Family]:
    # Behind the command's name, which may hold blanks and parentheses, come the fields from the third on.
    fields = read_text(f"{proc}/self/stat").rpartition(")")[2].split()
    utime, stime, cutime, cstime = (int(value) for value in fields[11:15])
    threads, started, size, pages = int(fields[17]), int(fields[19]), int(fields[20]), int(fields[21])
    ticks, resident = os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE")
    yield _single("kata_agent_threads", "Threads of the agent.", threads)
    yield _single("kata_agent_total_time", "User and system time of the agent in clock ticks.", utime + stime)
    yield _single("kata_agent_total_vm", "Virtual memory of the agent in bytes.", size)
    yield _single("kata_agent_total_rss", "Resident memory of the agent in bytes.", resident)
    times = [("utime", utime), ("stime", stime), ("cutime", cutime), ("cstime", cstime)]
    yield Family("kata_agent_proc_stat", "Times of the agent in clock ticks.", _items(times))
    yield _single("process_cpu_seconds_total", "User and system time in seconds.", (utime + stime) / ticks, "counter")
    yield _single("process_virtual_memory_bytes", "Virtual memory in bytes.", size)
    yield _single("process_resident_memory_bytes", "Resident memory in bytes.", resident)
    yield _single("process_start_time_seconds", "Start since the epoch in seconds.", _boot(proc) + started / ticks)
    yield _single("process_open_fds", "Open descriptors.", len(os.listdir(f"{proc}/self/fd")))
    yield _single("process_max_fds", "Limit of open descriptors.", os.sysconf("SC_OPEN_MAX"))


def _boot(proc: str) -> int:
    return next(int(line[6:]) for line in read_text(f"{proc}/stat").splitlines() if line.startswith("btime "))


def _status(proc: str) -> Iterator[Family]:
    pairs = []
    for line in read_text(f"{proc}/self/status").splitlines():
        name, _, rest = line.partition(":")
        if STATUS_ITEMS.fullmatch(name):
            value, *unit = rest.split()
            pairs.append((name.lower(), int(value) * (1024 if unit else 1)))
    yield Family("kata_agent_proc_status", "Status of the agent; sizes in bytes.", _items(pairs))


def _io(proc: str) -> Iterator[Family]:
    pairs = [line.split(":") for line in read_text(f"{proc}/self/io").splitlines()]
    yield Family(
        "kata_agent_io_stat", "Input and output of the agent.", _items([(key, int(val)) for key, val in pairs])
    )


READERS: tuple[Callable[[str], Iterator[Family]], ...] = (
    *(_load, _cpu, _vm_stat, _meminfo, _network, _disks, _filesystems),
    *(_scrapes, _process, _status, _io),
)

"""Memory of processes as the kernel counts it (Documentation/filesystems/proc.rst: smaps_rollup, smaps). In MiB.

Used by `density`. Reading is apart from understanding, so that the second can be tested.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import NamedTuple

from tools.bench.world import descendants, stat_of

QEMU, HOLDER, VIRTIOFSD, REST = "QEMU", "shim or supervisor", "virtiofsd", "other helpers"
KINDS = (QEMU, HOLDER, VIRTIOFSD, REST)
ENGINE = ("containerd", "ctr")
"""Programs that are there without any sandbox, by the names of their processes."""
MAPPING = re.compile(r"^[0-9a-f]+-[0-9a-f]+ (....) \S+ \S+ \S+ *(.*)$")


class Memory(NamedTuple):
    """`pss`: its own pages, and of each shared one its share. `private`: what would be free without it."""

    pss: float = 0.0
    private: float = 0.0


class Process(NamedTuple):
    """One process: `name` as in its stat file, at most 15 letters."""

    pid: int
    parent: int
    name: str


def by_kind() -> dict[str, Memory]:
    """The sum of every sandbox's processes below this one, by what they are."""
    found = dict.fromkeys(KINDS, Memory())
    for pid, kind in kinds(processes()).items():
        with contextlib.suppress(OSError):  # ended meanwhile
            one, before = parse_rollup(Path(f"/proc/{pid}/smaps_rollup").read_text()), found[kind]
            found[kind] = Memory(before.pss + one.pss, before.private + one.private)
    return found


def processes() -> list[Process]:
    """All below this one."""
    found = []
    for pid in descendants():
        with contextlib.suppress(OSError):
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            found.append(Process(pid, int(stat_of(pid)[1]), name))
    return found


def kinds(found: list[Process]) -> dict[int, str]:
    """What each is to a sandbox, those of the engine left out: who has a QEMU as its child holds one. Pure."""
    holders = {process.parent for process in found if process.name.startswith("qemu-system")}
    told = {}
    for process in found:
        if process.name.startswith("qemu-system"):
            told[process.pid] = QEMU
        elif process.name.startswith("virtiofsd"):
            told[process.pid] = VIRTIOFSD
        elif process.name not in ENGINE:
            told[process.pid] = HOLDER if process.pid in holders else REST
    return told


def shared_with_template() -> float:
    """Of every QEMU: pages of a template's file that it has in use and has not written to, in MiB."""
    total = 0.0
    for pid, kind in kinds(processes()).items():
        if kind == QEMU:
            with contextlib.suppress(OSError):
                total += parse_template(Path(f"/proc/{pid}/smaps").read_text())
    return total


def parse_rollup(text: str) -> Memory:
    """The two sums out of smaps_rollup."""
    sizes = _sizes(text)
    private = sizes.get("Private_Clean", 0) + sizes.get("Private_Dirty", 0) + sizes.get("Private_Hugetlb", 0)
    return Memory(sizes.get("Pss", 0) / 1024, private / 1024)


def parse_template(smaps: str) -> float:
    """Resident pages of private mappings of a memfd that are still the file's, in MiB."""
    total, wanted = 0, False
    for line in smaps.splitlines():
        if mapping := MAPPING.match(line):
            wanted = mapping[1].endswith("p") and mapping[2].startswith("/memfd:")
        elif wanted:
            size = _sizes(line)
            total += size.get("Rss", 0) - size.get("Anonymous", 0)
    return total / 1024


def _sizes(text: str) -> dict[str, int]:
    """KiB of each line that has some."""
    return {name: int(size) for name, size in re.findall(r"^(\w+): +(\d+) kB$", text, re.MULTILINE)}

"""Memory of processes as the kernel counts it (Documentation/filesystems/proc.rst: smaps_rollup, smaps). In MiB.

A guest's memory may be a file (memfd_create(2)): what is written to it takes memory, mapped or not. So the files are
counted too: one of a machine's own wholly as that machine's, a template's once. Used by `density`. Reading is apart
from understanding, so that the second can be tested.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tools.bench.world import descendants, stat_of

if TYPE_CHECKING:
    from collections.abc import Iterator

QEMU, HOLDER, VIRTIOFSD, REST = "QEMU", "shim or supervisor", "virtiofsd", "other helpers"
NINEP = "virtfs-proxy-helper"
FILE = "guest memory beyond what QEMU alone has mapped"
"""Pages of the file that is one machine's memory: not mapped by anybody, or by virtiofsd as well."""
KINDS = (QEMU, FILE, HOLDER, VIRTIOFSD, NINEP, REST)
ENGINE = ("containerd", "ctr")
"""Programs that are there without any sandbox, by the names of their processes."""
MAPPING = re.compile(r"^([0-9a-f]+-[0-9a-f]+) (....) \S+ (\S+) (\d+) *(.*)$")
BLOCK = 512
"""Bytes of stat's st_blocks (stat(2))."""


class Memory(NamedTuple):
    """`pss`: its own pages, and of each shared one its share. `private`: what would be free without it."""

    pss: float = 0.0
    private: float = 0.0


class Process(NamedTuple):
    """One process: `name` as in its stat file, at most 15 letters."""

    pid: int
    parent: int
    name: str


class Mapped(NamedTuple):
    """A process's mapping of a memfd: at which addresses, which file, whether for itself alone; sizes in MiB."""

    place: str
    file: tuple[str, str]
    shared: bool
    rss: float = 0.0
    anonymous: float = 0.0
    memory: Memory = Memory()


class Sample(NamedTuple):
    """All sandboxes at one moment. `shared`: of the template, in use and not written to, of all QEMUs together.

    `template`: the files of templates that are in memory, each counted once.
    """

    kinds: dict[str, Memory]
    shared: float = 0.0
    template: float = 0.0


def sample() -> Sample:
    """Of every sandbox's processes below this one, by what they are, and of the files that their guests' memory is."""
    found = dict.fromkeys(KINDS, Memory())
    maps: list[Mapped] = []
    sizes: dict[tuple[str, str], float] = {}
    for pid, kind in kinds(processes()).items():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # ended meanwhile
            one, before = parse_rollup(Path(f"/proc/{pid}/smaps_rollup").read_text()), found[kind]
            found[kind] = Memory(before.pss + one.pss, before.private + one.private)
            for mapped in parse_memfds(Path(f"/proc/{pid}/smaps").read_text()):
                maps.append(mapped)
                sizes[mapped.file] = os.stat(f"/proc/{pid}/map_files/{mapped.place}").st_blocks * BLOCK / 2**20
    return summed(found, maps, sizes)


def summed(found: dict[str, Memory], maps: list[Mapped], sizes: dict[tuple[str, str], float]) -> Sample:
    """What processes have, and what files of memory have beyond that. `sizes`: MiB of each file. Pure.

    A template's file is mapped privately: what a QEMU alone has mapped of it would not be free without that QEMU.
    """
    own = {mapped.file for mapped in maps if mapped.shared}
    pss = private = shared = clean = 0.0
    for mapped in maps:
        if mapped.file in own:
            pss, private = pss + mapped.memory.pss, private + mapped.memory.private
        else:
            shared += mapped.rss - mapped.anonymous
            clean += max(mapped.memory.private - mapped.anonymous, 0.0)
    whole = sum(sizes[file] for file in own)
    qemu = found[QEMU]
    counted = {**found, QEMU: Memory(qemu.pss, qemu.private - clean), FILE: Memory(whole - pss, whole - private)}
    return Sample(counted, shared, sum(size for file, size in sizes.items() if file not in own))


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
        elif process.name == NINEP[:15]:
            told[process.pid] = NINEP
        elif process.name not in ENGINE:
            told[process.pid] = HOLDER if process.pid in holders else REST
    return told


def parse_rollup(text: str) -> Memory:
    """The two sums out of smaps_rollup."""
    sizes = _sizes(text)
    private = sizes.get("Private_Clean", 0) + sizes.get("Private_Dirty", 0) + sizes.get("Private_Hugetlb", 0)
    return Memory(sizes.get("Pss", 0) / 1024, private / 1024)


def parse_memfds(smaps: str) -> list[Mapped]:
    """The mappings of memfds in smaps."""
    found: list[Mapped] = []
    for header, text in _mappings(smaps):
        if header[5].startswith("/memfd:"):
            sizes = _sizes(text)
            rss, anonymous = sizes.get("Rss", 0) / 1024, sizes.get("Anonymous", 0) / 1024
            shared = header[2].endswith("s")
            found.append(Mapped(header[1], (header[3], header[4]), shared, rss, anonymous, parse_rollup(text)))
    return found


def _mappings(smaps: str) -> Iterator[tuple[re.Match[str], str]]:
    """The first line of each, understood, and the lines below it."""
    header, lines = None, list[str]()
    for line in smaps.splitlines():
        if found := MAPPING.match(line):
            if header is not None:
                yield header, "\n".join(lines)
            header, lines = found, []
        else:
            lines.append(line)
    if header is not None:
        yield header, "\n".join(lines)


def _sizes(text: str) -> dict[str, int]:
    """KiB of each line that has some."""
    return {name: int(size) for name, size in re.findall(r"^(\w+): +(\d+) kB$", text, re.MULTILINE)}

"""Reclaim: has the kernel take memory back that containers have not used for some periods (cgroup v2 `memory.reclaim`).

Where the kernel has the multi-generational LRU (admin-guide/mm/multigen_lru.rst), each period begins a new generation
of every container's memory, so that what counts as inactive was really not used since. Else the kernel's own two lists
decide. Only containers' cgroups are ever written to.
"""

from __future__ import annotations

import errno
import time
from typing import NamedTuple

from kata.agent.errors import Unsupported
from kata.agent.memagent.pressure import Pressure
from kata.linux import cgroup
from kata.linux.fds import read_text, write_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from kata.agent.memagent.settings import Reclaim

STEP = 16 << 20
"""Bytes that are given back between two looks at the pressure."""
LRU_GEN = "/sys/kernel/debug/lru_gen"


class Lruvec(NamedTuple):
    """The memory of one cgroup on one node, and its youngest generation."""

    memcg: int
    path: str
    node: int
    youngest: int


class Group:
    """What is known of one container's cgroup."""

    def __init__(self, path: str, clock: Callable[[], float]) -> None:
        self.path = path
        self.pressure = Pressure(f"{path}/memory.pressure", clock)
        self.periods = 0


class Reclaimer:
    """Goes over the containers' cgroups, which `groups` gives by container id, once a period."""

    def __init__(
        self,
        groups: Callable[[], Mapping[str, str]],
        *,
        root: str = cgroup.ROOT,
        lru_gen: str = LRU_GEN,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._groups = groups
        self._root = root
        self._lru_gen = lru_gen
        self._clock = clock
        self._known: dict[str, Group] = {}

    def once(self, settings: Reclaim) -> dict[str, int]:
        """One period: bytes asked back, by container. Raises OSError, Unsupported."""
        taken = {}
        groups = self._groups()
        self._known = {name: group for name, group in self._known.items() if groups.get(name) == group.path}
        for name, path in groups.items():
            try:
                taken[name] = self._visit(name, path, settings)
            except FileNotFoundError:
                continue  # removed while we looked
        return taken

    def _visit(self, name: str, path: str, settings: Reclaim) -> int:
        group = self._known.get(name)
        if group is None:
            group = self._known[name] = Group(path, self._clock)
        elif group.pressure.percent() > settings.period_psi_percent_limit:
            return 0
        self._age(path, settings)
        group.periods += 1
        if group.periods <= settings.eviction_run_aging_count_min:
            return 0
        return self._evict(group, settings)

    def _age(self, path: str, settings: Reclaim) -> None:
        """Begin a new generation in the cgroup and all below it, where the kernel lets us."""
        inside = path.removeprefix(self._root)
        try:
            found = list(lruvecs(read_text(self._lru_gen)))
        except OSError:
            return
        for entry in found:
            if entry.path == inside or entry.path.startswith(f"{inside}/"):
                write_text(self._lru_gen, f"+ {entry.memcg} {entry.node} {entry.youngest} {int(settings.swap)}")

    def _evict(self, group: Group, settings: Reclaim) -> int:
        """Have cold memory taken back, until there is none, the kernel finds none, or somebody feels it."""
        pressure = Pressure(f"{group.path}/memory.pressure", self._clock)
        left = cold(group.path, swap=settings.swap)
        taken = 0
        while left > 0:
            size = min(left, STEP)
            if not reclaim(group.path, size, settings.swappiness_max if settings.swap else 0):
                break
            taken, left = taken + size, left - size
            if pressure.percent() > settings.eviction_psi_percent_limit:
                break
        return taken


def cold(path: str, *, swap: bool) -> int:
    """Bytes that the cgroup has not used lately: of the page cache, and with `swap` of anonymous memory."""
    found = cgroup.flat(path, "memory.stat")
    return found.get("inactive_file", 0) + (found.get("inactive_anon", 0) if swap else 0)


def reclaim(path: str, size: int, swappiness: int) -> bool:
    """Ask for `size` bytes back; False when the kernel does not find so many.

    Raises OSError; Unsupported on a kernel that takes no swappiness here (older than 6.9), as it might swap.
    """
    try:
        write_text(f"{path}/memory.reclaim", f"{size} swappiness={swappiness}")
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise Unsupported("this guest's kernel cannot be told what to reclaim (memory.reclaim)") from error
        if error.errno not in (errno.EAGAIN, errno.EBUSY):
            raise
        return False
    return True


def lruvecs(text: str) -> Iterator[Lruvec]:
    """The entries of debugfs' lru_gen: `memcg ID PATH`, below it `node N`, below that a line a generation."""
    memcg, path, node, youngest = 0, "", -1, -1
    for words in (line.split() for line in text.splitlines()):
        if words[:1] in (["memcg"], ["node"]):
            if youngest >= 0:
                yield Lruvec(memcg, path, node, youngest)
            youngest = -1
        if words[:1] == ["memcg"]:
            memcg, path = int(words[1]), words[2] if len(words) > 2 else ""
        elif words[:1] == ["node"]:
            node = int(words[1])
        elif words and words[0].isdigit():
            youngest = int(words[0])
    if youngest >= 0:
        yield Lruvec(memcg, path, node, youngest)

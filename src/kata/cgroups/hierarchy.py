"""The cgroup trees of this host: v1, one tree for each set of controllers; v2, one for all; hybrid hosts have both.

Kernel documentation: admin-guide/cgroup-v1/cgroups.rst, admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

from typing import NamedTuple

from kata.linux.fds import read_text

WANTED = frozenset({"cpu", "cpuacct", "cpuset", "memory", "devices", "pids", "blkio", "freezer", "io"})
"""Controllers by whose trees a sandbox is bounded, counted or seen."""
SYSTEMD = "name=systemd"
"""Stands among the controllers of the v1 tree that has none, by which systemd knows whose a process is."""


class Hierarchy(NamedTuple):
    """One tree: where it is mounted, which version, and the controllers in it."""

    root: str
    version: int
    controllers: frozenset[str]

    @property
    def whole(self) -> bool:
        """Whether a process is in one place with all its threads: in v2, and for systemd."""
        return self.version == 2 or SYSTEMD in self.controllers

    @property
    def bounds(self) -> bool:
        """Whether it does more than to say whose processes are."""
        return bool(self.controllers - {SYSTEMD})


def hierarchies(*, naming: bool = False) -> list[Hierarchy]:
    """The trees of this host that have a controller we use; none where cgroups are not mounted.

    `naming`: those too by which systemd knows whose processes are, and that may have no controller.
    """
    try:
        return parse(read_text("/proc/self/mountinfo"), _unified_controllers, naming=naming)
    except OSError:
        return []


def parse(mountinfo: str, unified_controllers: _Reader, *, naming: bool = False) -> list[Hierarchy]:
    """The trees of a mountinfo file (proc(5)), each once. `unified_controllers` says what the v2 tree at a path has.

    A v2 tree without controllers of use (hybrid hosts have it to name services) is left out, but for `naming`.
    """
    wanted = WANTED | {SYSTEMD} if naming else WANTED
    found: dict[str, Hierarchy] = {}
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(" "), right.split(" ")
        if kind[0] == "cgroup":
            made = Hierarchy(fields[4], 1, frozenset(kind[-1].split(",")) & wanted)
        elif kind[0] == "cgroup2":
            made = Hierarchy(fields[4], 2, unified_controllers(fields[4]) & WANTED)
        else:
            continue
        if (made.controllers or (naming and made.version == 2)) and fields[2] not in found:
            found[fields[2]] = made
    return list(found.values())


def own_paths(pid: int | str = "self") -> dict[str, str]:
    """The cgroup of a process in each tree: by controller, "" for v2 (cgroups(7), /proc/pid/cgroup)."""
    found = {}
    for line in read_text(f"/proc/{pid}/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        for name in controllers.split(","):
            found[name] = path
    return found


def path_in(tree: Hierarchy, paths: dict[str, str]) -> str:
    """Of `own_paths`, the one in this tree; its root when it says nothing."""
    names = [""] if tree.version == 2 else sorted(tree.controllers)
    return next((paths[name] for name in names if name in paths), "/")


def _unified_controllers(root: str) -> frozenset[str]:
    try:
        return frozenset(read_text(f"{root}/cgroup.controllers").split())
    except OSError:
        return frozenset()


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    _Reader = Callable[[str], frozenset[str]]

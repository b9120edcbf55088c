"""Cgroup v1: a hierarchy for each controller, below one tmpfs. For guests whose user asks for it; see `cgroup` for v2.

Called by the agent. Kernel doc: admin-guide/cgroup-v1. Which cgroup a container has is a folder for each controller;
crun makes and removes them.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable

from kata.linux.cgroup import ROOT
from kata.linux.fds import read_text, write_text

TOGETHER = (("cpu", "cpuacct"), ("net_cls", "net_prio"))
"""Controllers that share a hierarchy everywhere, so that programs find them there."""
FREEZE_TIMEOUT = 5.0


def hierarchies(cgroups: str) -> list[tuple[str, ...]]:
    """The hierarchies to mount for a kernel with this /proc/cgroups: each a tuple of controllers."""
    rows = [line.split() for line in cgroups.splitlines() if line and not line.startswith("#")]
    enabled = [row[0] for row in rows if row[3] == "1"]
    joined = [tuple(name for name in group if name in enabled) for group in TOGETHER]
    alone = [(name,) for name in enabled if not any(name in group for group in TOGETHER)]
    return [group for group in joined if group] + alone


def is_mounted(root: str = ROOT) -> bool:
    """Whether this system has the layout of v1."""
    return not os.path.exists(f"{root}/cgroup.controllers") and os.path.isdir(f"{root}/pids")


def folders_of(pid: int, root: str = ROOT, proc: str = "/proc") -> dict[str, str]:
    """The folder of process `pid` in each controller's hierarchy. Raises OSError when it is gone."""
    found = {}
    for line in read_text(f"{proc}/{pid}/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        for name in controllers.split(","):
            if name and os.path.isdir(f"{root}/{name}"):
                found[name] = f"{root}/{name}{path.rstrip('/')}"
    return found


def folders_at(path: str, root: str = ROOT) -> dict[str, str]:
    """The folders that exist for the cgroup `path` (absolute, as in a spec)."""
    names = os.listdir(root) if os.path.isdir(root) else []
    return {name: f"{root}/{name}{path}" for name in names if os.path.isdir(f"{root}/{name}{path}")}


def lacking(controllers: Iterable[str], root: str = ROOT) -> list[str]:
    """Those of the controllers that have no hierarchy here."""
    return [name for name in controllers if not os.path.isdir(f"{root}/{name}")]


def kill(folders: dict[str, str]) -> None:
    """SIGKILL every process of the cgroup and below. Raises OSError.

    v1 has no call for this. Frozen, nothing can fork away while it is walked; the signal acts with the thaw.
    """
    folder = folders.get("freezer") or next(iter(folders.values()))
    freezer = f"{folder}/freezer.state"
    _freeze(freezer)
    try:
        for pid in pids(folder):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue  # ended by itself
    finally:
        if os.path.exists(freezer):
            write_text(freezer, "THAWED")


def _freeze(state: str) -> None:
    """Ask until it is so: a process that is just being forked makes the kernel stop half way ("FREEZING")."""
    deadline = time.monotonic() + FREEZE_TIMEOUT
    while os.path.exists(state) and time.monotonic() < deadline:
        write_text(state, "FROZEN")
        if read_text(state).strip() == "FROZEN":
            return


def pids(folder: str) -> list[int]:
    """The processes of a cgroup and all below it."""
    found: list[int] = []
    for below, _, _ in os.walk(folder):
        try:
            found += [int(pid) for pid in read_text(f"{below}/cgroup.procs").split()]
        except FileNotFoundError:
            continue  # removed while we walked
    return found

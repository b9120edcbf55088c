"""All that sandboxes of one containerd may leave on this host, wherever it is, found by their names and folders.

Other tests may run on the same machine: what is new for another reason is never taken for a trace.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from kata import paths
from kata.shim.address import socket_path
from tests.helpers.cli import leftovers
from tests.helpers.containerd import Containerd

GONE_TIMEOUT = 60.0
TASKS = "io.containerd.runtime.v2.task"


def await_none(look: Callable[[], Iterable[str]]) -> list[str]:
    """What there is, and still is after the time that the last processes have to end; empty is how it should be."""
    left = set(look())
    deadline = time.monotonic() + GONE_TIMEOUT
    while left and time.monotonic() < deadline:
        time.sleep(0.2)
        left &= set(look())
    return sorted(left)


def traces(daemon: Containerd, names: Iterable[str]) -> Iterator[str]:
    """What is left of the sandboxes `names`."""
    wanted = set(names)
    yield from leftovers()
    yield from (f"container {name}" for name in daemon.ctr("container", "ls", "-q").stdout.decode().split())
    yield from (f"task {name}" for name in daemon.ctr("task", "ls", "-q").stdout.decode().split())
    yield from (f"shim {pid}" for pid in daemon.shims())
    yield from _zombies({os.getpid(), daemon.pid, 1})
    yield from _mounts(daemon)
    yield from _loops(daemon)
    yield from _folders(wanted, "/sys/fs/cgroup", depth=4)
    for place in (*Path("/run").glob("vc*"), *Path("/run").glob("kata*"), *daemon.folder.glob(f"*/{TASKS}")):
        yield from _folders(wanted, os.fspath(place), depth=3)
    for name in wanted:
        path = socket_path(str(daemon.address), daemon.namespace, name)
        if os.path.exists(path):
            yield f"socket {path}"
    yield from (f"half a template {path}" for path in paths.templates_dir().glob("*.*") if path.suffix != ".lock")
    yield from (f"half a record {path}" for path in paths.sandboxes_dir().glob(".[!n]*"))


def _zombies(parents: set[int]) -> Iterator[str]:
    """Processes that have ended and that nobody has waited for (proc(5): stat)."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                name, _, rest = (entry / "stat").read_text().rpartition(")")
            except OSError:
                continue
            state, parent = rest.split()[:2]
            if state == "Z" and int(parent) in parents:
                yield f"zombie {name}) of {parent}"


def _mounts(daemon: Containerd) -> Iterator[str]:
    """Mounts of sandboxes in our mount namespace, which is the host's; those of shims go with their processes."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        place = line.split()[4]
        if place.startswith((f"{daemon.folder}/state/{TASKS}", str(paths.state_dir()))):
            yield f"mount {line}"


def _loops(daemon: Containerd) -> Iterator[str]:
    places = (str(daemon.folder), str(paths.state_dir()), str(paths.data_dir()))
    for file in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            backing = file.read_text().strip()
        except OSError:
            continue
        if backing.startswith(places):
            yield f"loop device {file.parts[3]}: {backing}"


def _folders(names: set[str], place: str, depth: int) -> Iterator[str]:
    """Files and folders below `place` that carry one of the names."""
    try:
        entries = list(os.scandir(place))
    except OSError:
        return
    for entry in entries:
        if any(name in entry.name for name in names):
            yield f"folder {entry.path}"
        elif depth > 1 and entry.is_dir(follow_symlinks=False):
            yield from _folders(names, entry.path, depth - 1)

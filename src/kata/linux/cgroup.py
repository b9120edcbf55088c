"""Reading and driving one cgroup of the unified hierarchy (v2), by the kernel's own file names.

Called by the agent for statistics, killing and out-of-memory events. Kernel doc: admin-guide/cgroup-v2.rst.
Who creates and removes cgroups is crun; `remove` is for what a crun that was killed has left.
"""

from __future__ import annotations

import os
import select
import time

from kata.linux.fds import read_text, write_text

ROOT = "/sys/fs/cgroup"
MAX = (1 << 64) - 1
"""What "max" in a v2 file becomes in messages, whose v1 shape has only numbers."""


def cgroup_of(pid: int) -> str:
    """The cgroup's directory below `ROOT` that process `pid` is in.

    Raises OSError when the process is gone.
    """
    for line in read_text(f"/proc/{pid}/cgroup").splitlines():
        if line.startswith("0::"):
            return ROOT + line[3:].rstrip("/")
    raise OSError(f"process {pid} is in no cgroup of the unified hierarchy")


def enable_controllers(path: str) -> None:
    """Hand every available controller of `path` down to its children.

    One that refuses does not stop the others.
    """
    for name in read_text(f"{path}/cgroup.controllers").split():
        try:
            write_text(f"{path}/cgroup.subtree_control", f"+{name}")
        except OSError:
            continue  # e.g. a controller bound elsewhere: its limits then do not exist, the rest works


def kill(path: str) -> None:
    """SIGKILL every process of the cgroup and below, frozen ones too, at once (kernel >= 5.14)."""
    write_text(f"{path}/cgroup.kill", "1")


def remove(path: str, deadline: float) -> None:
    """Remove a cgroup and all below it as soon as their processes, which were killed, are gone.

    `deadline` is a value of time.monotonic(). Raises OSError when they are not gone by then.
    """
    while pids(path) and time.monotonic() < deadline:
        if os.path.exists(f"{path}/cgroup.events"):
            _wait_for_change(f"{path}/cgroup.events", deadline)
        else:
            time.sleep(0.01)  # v1 has no event for this
    for folder, _, _ in os.walk(path, topdown=False):
        os.rmdir(folder)


def _wait_for_change(events: str, deadline: float) -> None:
    """Until the kernel says that `populated` or `frozen` changed (POLLPRI), at most a second or the deadline."""
    fd = os.open(events, os.O_RDONLY | os.O_CLOEXEC)
    try:
        poll = select.poll()
        poll.register(fd, select.POLLPRI)
        os.read(fd, 4096)  # only a change after a read is told
        poll.poll(max(0.0, min(1.0, deadline - time.monotonic())) * 1000)
    finally:
        os.close(fd)


def pids(path: str) -> list[int]:
    """The processes of the cgroup and all below it."""
    found: list[int] = []
    for folder, _, _ in os.walk(path):
        try:
            found += [int(pid) for pid in read_text(f"{folder}/cgroup.procs").split()]
        except FileNotFoundError:
            continue  # removed while we walked
    return found


def number(path: str, name: str) -> int:
    """A file of one number; "max" is `MAX`, a missing file (controller not enabled) 0."""
    try:
        text = read_text(f"{path}/{name}").strip()
    except FileNotFoundError:
        return 0
    return MAX if text == "max" else int(text or 0)


def flat(path: str, name: str) -> dict[str, int]:
    """A flat keyed file ("key value" lines); empty when it is missing."""
    try:
        text = read_text(f"{path}/{name}")
    except FileNotFoundError:
        return {}
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def nested(path: str, name: str) -> dict[str, dict[str, int]]:
    """A nested keyed file ("key sub=value ..." lines); empty when it is missing."""
    try:
        text = read_text(f"{path}/{name}")
    except FileNotFoundError:
        return {}
    rows = {}
    for line in text.splitlines():
        key, *pairs = line.split()
        split = (pair.partition("=") for pair in pairs)
        rows[key] = {sub: int(value) for sub, _, value in split if value.isdigit()}
    return rows

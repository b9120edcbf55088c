"""The mark in the environment of every program that we start: who started it, and for which state directory.

Set by `process`. Programs that end with whoever started them need none; should one of them live on all the same, or a
helper go on with work that nobody wants any more, it is known by this for ours, and for nobody's (`kata doctor`).
"""

from __future__ import annotations

import os
from typing import NamedTuple

VARIABLE = "KATA_STARTED_BY"


class StartedBy(NamedTuple):
    """Who started a program: a process by number and time of start, the PID namespace in which that number counts, and
    what its KATA_STATE_DIR was."""

    pid: int
    start: int
    namespace: int
    state: str


def mark() -> str:
    """This process, as `read_mark` reads it. Raises OSError without /proc."""
    start = start_time(os.getpid())
    if start is None:
        raise FileNotFoundError("/proc is not mounted")
    return f"{os.getpid()} {start} {pid_namespace()} {os.environ.get('KATA_STATE_DIR', '')}"


def pid_namespace() -> int:
    """The number of this process's PID namespace (namespaces(7)). Raises OSError."""
    return os.stat("/proc/self/ns/pid").st_ino


def start_time(pid: int) -> int | None:
    """When a process was started, in the kernel's unit (proc(5): field 22 of stat); None when there is none."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return int(file.read().rpartition(")")[2].split()[19])
    except (FileNotFoundError, ProcessLookupError):
        return None


def read_mark(environment: bytes) -> StartedBy | None:
    """Who started a program with this environment, as /proc/pid/environ has it; None for one without a mark."""
    prefix = f"{VARIABLE}=".encode()
    for entry in environment.split(b"\0"):
        if entry.startswith(prefix):
            try:
                pid, start, namespace, state = os.fsdecode(entry.removeprefix(prefix)).split(" ", 3)
                return StartedBy(int(pid), int(start), int(namespace), state)
            except ValueError:
                return None
    return None


def started_by(pid: int) -> StartedBy | None:
    """Who started a process; None when it has no mark, is gone, or is not ours to look at."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return read_mark(file.read())
    except OSError:
        return None

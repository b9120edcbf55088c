"""Which process a number means: numbers are used again, a number with its time of start is not. Knows no hypervisor."""

from __future__ import annotations

from pathlib import Path

import msgspec


class ProcessRef(msgspec.Struct, frozen=True):
    """A process that cannot be mistaken for a later one with the same number (`start` as /proc/pid/stat has it)."""

    pid: int
    start: int


def process_ref(pid: int) -> ProcessRef | None:
    """The reference of a living process, or None when there is none (proc(5), field 22 of stat)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return ProcessRef(pid, int(stat.rpartition(")")[2].split()[19]))

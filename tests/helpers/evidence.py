"""What to look at when a test of a real guest fails, gathered before clean-up takes it away.

Called by `tests/vm/conftest.py` at the moment of the failure. Never raises: a process may end while it is read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

TAIL = 8192
"""Bytes of each log that are shown."""

LOGS = ("*.log", "*console*")
PROC_FILES = ("wchan", "stack")
STATUS_FIELDS = ("Name", "State", "PPid", "Threads", "VmRSS", "SigBlk")


def collect(folders: list[Path], root_pid: int) -> list[tuple[str, str]]:
    """Titles and texts: the logs below `folders`, then the state of each process below `root_pid`."""
    found = [(str(path), _tail(path)) for folder in folders for path in _logs(folder)]
    return [*found, *((f"process {pid}", _process(pid)) for pid in descendants(root_pid))]


def descendants(pid: int) -> list[int]:
    """Every process below `pid`, by the parents that /proc names (proc(5), stat field 4)."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            # The second field, a name in brackets, may hold blanks and brackets of its own.
            fields = _read(entry / "stat").rpartition(")")[2].split()
            if len(fields) > 1:
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, left = [], [pid]
    while left:
        below = children.get(left.pop(), [])
        found += below
        left += below
    return sorted(found)


def _logs(folder: Path) -> Iterator[Path]:
    for pattern in LOGS:
        for path in sorted(folder.rglob(pattern)):
            if path.is_file() and not path.is_symlink():
                yield path


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - TAIL))
            return stream.read(TAIL).decode("utf-8", "replace")
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _process(pid: int) -> str:
    folder = Path("/proc") / str(pid)
    lines = [_read(folder / "cmdline").replace("\0", " ")]
    lines += [line for line in _read(folder / "status").splitlines() if line.partition(":")[0] in STATUS_FIELDS]
    lines += [f"{name}: {_read(folder / name).strip()}" for name in PROC_FILES]
    try:
        lines.append(f"descriptors: {len(os.listdir(folder / 'fd'))}")
    except OSError:
        lines.append("it ended while it was looked at")
    return "\n".join(lines)


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""

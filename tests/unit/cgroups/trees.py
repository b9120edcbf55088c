"""Folders that look like cgroup trees: what the kernel would show in each new cgroup appears in it, no more."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from kata.cgroups.hierarchy import Hierarchy
from kata.cgroups.limits import Rule
from kata.linux import devicefilter

V1 = (
    *("devices.deny", "cpuset.cpus", "cpuset.mems"),
    "cgroup.procs",
    "tasks",
    "cpu.cfs_period_us",
    "cpu.cfs_quota_us",
    "memory.limit_in_bytes",
    "devices.allow",
)
V2 = ("cgroup.procs", "cgroup.threads", "cgroup.subtree_control", "cpu.max", "memory.max", "cpuset.cpus", "cpuset.mems")


class Trees:
    """Fake trees. A real kernel is asked in tests/kernel/test_cgroups.py."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self._marks: dict[str, bytes] = {}
        self._mkdir, self._rmdir = os.mkdir, os.rmdir
        monkeypatch.setattr(os, "mkdir", self._make)
        monkeypatch.setattr(os, "rmdir", self._remove)
        monkeypatch.setattr(os, "setxattr", lambda path, _, value: self._marks.update({str(path): value}))
        monkeypatch.setattr(os, "getxattr", self._mark_of)
        self.filters: dict[str, list[Rule]] = {}
        """By folder, the devices that its processes may use."""
        monkeypatch.setattr(devicefilter, "attach", self._attach)

    def tree(self, name: str, version: int, *controllers: str) -> Hierarchy:
        """A tree with a root."""
        root = self.folder / name
        self._mkdir(root)
        self._fill(root, version)
        (root / "cpuset.cpus").write_text("0-3\n")
        (root / "cpuset.mems").write_text("0\n")
        return Hierarchy(str(root), version, frozenset(controllers))

    def _attach(self, folder: str, rules: list[Rule], before: int | None) -> int:
        assert (before is not None) == (folder in self.filters)
        self.filters[folder] = list(rules)
        return os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)

    def read(self, path: str) -> str:
        """What was written to a file last."""
        return (self.folder / path).read_text()

    def _fill(self, folder: Path, version: int) -> None:
        for name in V1 if version == 1 else V2:
            (folder / name).write_text("")

    def _make(self, path: str, mode: int = 0o777) -> None:
        self._mkdir(path, mode)
        self._fill(Path(path), 1 if (Path(path).parent / "tasks").exists() else 2)

    def _remove(self, path: str, **_: Any) -> None:
        """As the kernel does: files do not count, children do."""
        if any(entry.is_dir() for entry in Path(path).iterdir()):
            raise OSError(16, "Device or resource busy", path)
        for entry in Path(path).iterdir():
            entry.unlink()
        self._rmdir(path)

    def _mark_of(self, path: str, _: str) -> bytes:
        if path not in self._marks:
            raise OSError(61, "No data available", path)
        return self._marks[path]

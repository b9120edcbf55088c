"""Reading cgroup files."""

from __future__ import annotations

from pathlib import Path

import pytest

from kata.linux import cgroup


@pytest.fixture
def folder(tmp_path: Path) -> str:
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "pids.current").write_text("7\n")
    (tmp_path / "cpu.stat").write_text("usage_usec 120\nuser_usec 100\nodd\nbad x\n")
    (tmp_path / "io.stat").write_text("254:0 rbytes=1 wbytes=2 rios=3\n8:16\n")
    (tmp_path / "cgroup.procs").write_text("5\n6\n")
    (tmp_path / "below").mkdir()
    (tmp_path / "below/cgroup.procs").write_text("7\n")
    return str(tmp_path)


def test_numbers(folder: str) -> None:
    assert cgroup.number(folder, "memory.max") == cgroup.MAX
    assert cgroup.number(folder, "pids.current") == 7
    assert cgroup.number(folder, "missing") == 0


def test_keyed_files(folder: str) -> None:
    assert cgroup.flat(folder, "cpu.stat") == {"usage_usec": 120, "user_usec": 100}
    assert cgroup.flat(folder, "missing") == {}
    assert cgroup.nested(folder, "io.stat") == {"254:0": {"rbytes": 1, "wbytes": 2, "rios": 3}, "8:16": {}}
    assert cgroup.nested(folder, "missing") == {}


def test_pids_of_the_whole_subtree(folder: str) -> None:
    assert sorted(cgroup.pids(folder)) == [5, 6, 7]

"""`kata check` on hosts that tests make up."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from kata.ctl.check import host, programs
from kata.ctl.commands.check import line


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("mounts", "found"),
    [
        ("1 2 0:3 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw", "v2"),
        ("1 2 0:3 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu", "v1"),
        ("1 2 0:3 / /a rw - cgroup c rw\n1 2 0:4 / /b rw - cgroup2 c rw", "v1 with a v2 tree beside it (hybrid)"),
        ("1 2 0:3 / / rw - ext4 /dev/vda rw", "none mounted"),
    ],
)
def test_cgroups(tmp_path: Path, mounts: str, found: str) -> None:
    assert host.cgroups(write(tmp_path / "mountinfo", mounts)).found == found


@pytest.mark.parametrize(("kib", "state"), [(8_000_000, "ok"), (100_000, "fail")])
def test_memory(tmp_path: Path, kib: int, state: str) -> None:
    finding = host.memory(write(tmp_path / "meminfo", f"MemTotal: 1 kB\nMemAvailable:  {kib} kB\n"))
    assert finding.state == state


def test_a_proc_that_says_nothing_is_no_crash(tmp_path: Path) -> None:
    assert host.memory(tmp_path / "none").state == "fail"
    assert host.cgroups(tmp_path / "none").state == "warn"
    assert host.filesystem("erofs", "x", tmp_path / "none").state == "warn"


def test_file_systems(tmp_path: Path) -> None:
    table = write(tmp_path / "filesystems", "nodev\toverlay\n\terofs\n")
    assert host.filesystem("overlay", "x", table).state == "ok"
    assert host.filesystem("erofs", "x", table).state == "ok"
    finding = host.filesystem("btrfs", "why", table)
    assert (finding.state, finding.advice) == ("warn", "modprobe btrfs: why")


def test_capabilities(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert host.rights(write(tmp_path / "status", "CapEff:\t000001ffffffffff\n")).state == "ok"
    weak = host.rights(write(tmp_path / "status", "CapEff:\t0000000000000000\n"))
    assert weak.state == "fail"
    assert "CAP_SYS_ADMIN" in weak.found
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert host.rights(write(tmp_path / "status", "CapEff:\t000001ffffffffff\n")).state == "fail"


def test_disk_looks_at_the_nearest_folder_that_exists(tmp_path: Path) -> None:
    assert host.disk("data", tmp_path / "not" / "yet", need_mib=0).state == "ok"
    assert host.disk("data", tmp_path, need_mib=1 << 40).state == "warn"


def test_open_files() -> None:
    assert host.open_files((1024, 1024)).state == "warn"
    assert host.open_files((1024, 20000)).state == "ok"
    assert host.open_files((1024, resource.RLIM_INFINITY)).state == "ok"


def test_programs_come_from_the_list_that_set_up_reads() -> None:
    text = "# comment\na-package  run  a-program-that-is-not-there  does this\nb run - x\nc test ip y\n"
    [program] = programs.needed(text)
    finding = programs.check(program)
    assert (finding.state, finding.advice) == ("fail", "apt-get install a-package")
    assert "skopeo" in {program.program for program in programs.needed()}


def test_a_finding_is_a_line_and_its_advice_another() -> None:
    finding = host.open_files((1, 1))
    assert line(finding, colour=False).startswith("warn  open files")
    assert "\x1b[33m" in line(finding, colour=True)
    assert len(line(finding, colour=False).splitlines()) == 2

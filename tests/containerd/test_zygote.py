"""Shims from a zygote, through a real containerd: what they load, and zygotes that are dead, stuck or unwanted."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.containerd import Containerd

TIMEOUT = 60.0


@pytest.fixture
def folder(containerd: Containerd, state_dir: Path) -> Iterator[Path]:
    """Where zygotes listen; none does at first, and none at the end."""
    found = state_dir / "zygote"
    _end(found)
    yield found
    _end(found)


def test_the_second_start_comes_from_a_zygote_and_loads_nothing(containerd: Containerd, folder: Path) -> None:
    assert _run(containerd)["origin"] == "there is no zygote yet"
    _await_zygote(folder)
    assert containerd.ctr("run", "-d", "--runtime", "io.containerd.kata.v2", *CONTAINER, "sleep", "60").returncode == 0
    (shim,) = containerd.shims()
    words = Path(f"/proc/{shim}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    assert words[0] == b"containerd-shim-kata-v2"
    assert words[-1] == b"start"
    assert Path(f"/proc/{shim}/comm").read_text() == "containerd-shim\n"
    assert os.readlink(f"/proc/{shim}/cwd") == "/"
    assert containerd.ctr("task", "exec", "--exec-id", "e", "zy", "true").returncode == 0
    containerd.remove("zy")
    said = _said(containerd)
    assert said["origin"] == "a zygote"
    assert said["loaded_late"] == ""


@pytest.mark.parametrize(("number", "reason"), [(signal.SIGKILL, "dead"), (signal.SIGSTOP, "did not answer")])
def test_a_zygote_that_cannot_help_costs_nothing_else(
    containerd: Containerd, folder: Path, number: int, reason: str
) -> None:
    _run(containerd)
    pid = _await_zygote(folder)
    os.kill(pid, number)
    try:
        assert reason in _run(containerd)["origin"]
    finally:
        if number == signal.SIGSTOP:
            os.kill(pid, signal.SIGCONT)
    if number == signal.SIGSTOP:
        assert _run(containerd)["origin"] == "a zygote"


CONTAINER = ("docker.io/library/busybox:latest", "zy")


def _run(containerd: Containerd) -> dict[str, str]:
    done = containerd.ctr("run", "--rm", "--runtime", "io.containerd.kata.v2", *CONTAINER, "true")
    assert done.returncode == 0, done.stderr
    return _said(containerd)


def _said(containerd: Containerd) -> dict[str, str]:
    """What the last shim has said of its beginning and its end."""
    deadline = time.monotonic() + TIMEOUT
    while containerd.shims() and time.monotonic() < deadline:
        time.sleep(0.1)
    text = containerd.log.read_text(errors="replace").replace('\\"', '"')
    return {name: re.findall(rf'{name}=("[^"]*"|\S*)', text)[-1].strip('"') for name in ("origin", "loaded_late")}


def _await_zygote(folder: Path) -> int:
    """The process id of the zygote, once it listens."""
    deadline = time.monotonic() + TIMEOUT
    while not (found := _zygotes(folder)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found[0]


def _zygotes(folder: Path) -> list[int]:
    """Processes that hold a lock below the folder, of zygotes that listen."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                target = Path(os.readlink(entry / "fd/3"))
            except OSError:
                continue
            if target.parent == folder and target.with_suffix("").exists():
                found.append(int(entry.name))
    return found


def _end(folder: Path) -> None:
    """Have zygotes end, the way anybody may: their sockets are removed."""
    pids = _zygotes(folder)
    for path in folder.glob("*"):
        if path.suffix != ".lock":
            path.unlink()
    deadline = time.monotonic() + TIMEOUT
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)

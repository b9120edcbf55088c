"""Shims from a zygote, through a real containerd: what they load, and zygotes that are dead, stuck or unwanted."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.containerd import IMAGE, RUNTIME, Containerd
from tests.helpers.zygotes import TIMEOUT, await_zygote, end_zygotes

CONTAINER = (IMAGE, "zy")


@pytest.fixture
def folder(containerd: Containerd, state_dir: Path) -> Iterator[Path]:
    """Where zygotes listen; none does at first, and none at the end."""
    found = state_dir / "zygote"
    end_zygotes(found)
    yield found
    end_zygotes(found)


def test_the_second_start_comes_from_a_zygote_and_loads_nothing(containerd: Containerd, folder: Path) -> None:
    assert _run(containerd)["origin"] == "there is no zygote yet"
    await_zygote(folder)
    assert containerd.ctr("run", "-d", "--runtime", RUNTIME, *CONTAINER, "sleep", "60").returncode == 0
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
    pid = await_zygote(folder)
    os.kill(pid, number)
    try:
        assert reason in _run(containerd)["origin"]
    finally:
        if number == signal.SIGSTOP:
            os.kill(pid, signal.SIGCONT)
    if number == signal.SIGSTOP:
        assert _run(containerd)["origin"] == "a zygote"


def _run(containerd: Containerd) -> dict[str, str]:
    done = containerd.ctr("run", "--rm", "--runtime", RUNTIME, *CONTAINER, "true")
    assert done.returncode == 0, done.stderr
    return _said(containerd)


def _said(containerd: Containerd) -> dict[str, str]:
    """What the last shim has said of its beginning and its end."""
    deadline = time.monotonic() + TIMEOUT
    while containerd.shims() and time.monotonic() < deadline:
        time.sleep(0.1)
    text = containerd.log.read_text(errors="replace").replace('\\"', '"')
    return {name: re.findall(rf'{name}=("[^"]*"|\S*)', text)[-1].strip('"') for name in ("origin", "loaded_late")}

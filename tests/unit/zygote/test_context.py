"""A zygote's name says all that a child would inherit."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from kata import paths
from kata.zygote import context

SRC = str(Path(__file__).parents[3] / "src")
PROGRAM = "import sys; sys.path.insert(0, sys.argv[1]); from kata.zygote import context; print(context.socket_path())"


def name(**options: object) -> str:
    """The name in a fresh process."""
    command = [sys.executable, "-I", "-c", PROGRAM, SRC]
    done = subprocess.run(command, capture_output=True, text=True, check=True, **options)  # type: ignore[call-overload]
    return str(done.stdout)


def test_it_is_the_same_in_another_process_and_folder(tmp_path: Path) -> None:
    assert name() == name(cwd=tmp_path, umask=0o77, start_new_session=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda: os.nice(1),
        lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100)),
        lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}),
        lambda: Path("/proc/self/oom_score_adj").write_text("987"),
    ],
    ids=["nice", "limits", "processors", "oom"],
)
def test_what_children_inherit_makes_another(change: object) -> None:
    assert name() != name(preexec_fn=change)


def test_its_folder_is_in_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    assert context.folder() == str(paths.state_dir() / "zygote")
    monkeypatch.setenv("KATA_STATE_DIR", "")
    assert context.folder() == str(paths.state_dir() / "zygote")


@pytest.mark.parametrize(("value", "expected"), [("off", False), ("No", False), ("0", False), ("", True), ("on", True)])
def test_it_can_be_switched_off(monkeypatch: pytest.MonkeyPatch, value: str, expected: bool) -> None:
    monkeypatch.setenv(context.VARIABLE, value)
    assert context.wanted() is expected

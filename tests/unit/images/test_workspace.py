"""Scratch directories go away, whatever ends their owner; locks have deadlines."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kata.images import workspace
from kata.images.errors import NoSpaceError, StoreBusyError
from kata.images.lock import locked

OWNER = """
import signal, sys, time
from pathlib import Path
from kata.images.workspace import workspace
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is inherited as ignored, and
signal.signal(signal.SIGINT, signal.default_int_handler)  # so is this one in the background of a script
with workspace(Path(sys.argv[1])) as path:
    (path / "file").touch()
    print(path, flush=True)
    time.sleep(60)
"""


def start_owner(root: Path) -> tuple[subprocess.Popen[str], Path]:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(root)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    return owner, Path(owner.stdout.readline().strip())


def end(owner: subprocess.Popen[str], number: int) -> int:
    owner.send_signal(number)
    code = owner.wait(30)
    assert owner.stdout is not None
    owner.stdout.close()
    return code


@pytest.mark.parametrize(("number", "code"), [(15, 143), (1, 129), (2, -2)])
def test_a_signal_leaves_nothing(tmp_path: Path, number: int, code: int) -> None:
    owner, path = start_owner(tmp_path)
    assert (path / "file").exists()
    assert path.stat().st_mode & 0o777 == 0o700
    assert end(owner, number) in (code, 1)
    assert not path.exists()


def test_what_a_killed_owner_left_goes_next_time(tmp_path: Path) -> None:
    owner, path = start_owner(tmp_path)
    with workspace.workspace(tmp_path):
        assert path.exists()  # its owner lives
    end(owner, 9)
    assert path.exists()
    with workspace.workspace(tmp_path):
        assert not path.exists()
    assert os.listdir(tmp_path) == [".lock"]


def test_adopted_files_live_with_their_descriptor(tmp_path: Path) -> None:
    with workspace.workspace(tmp_path) as work:
        (work / "a.erofs").touch()
        path, fd = workspace.adopt(tmp_path, work / "a.erofs")
    passed_on = os.dup(fd)
    os.close(fd)
    workspace.sweep(tmp_path)
    assert path.exists()
    os.close(passed_on)
    workspace.sweep(tmp_path)
    assert not path.exists()


def test_deep_trees_are_removed(tmp_path: Path) -> None:
    with workspace.workspace(tmp_path) as work:
        here = os.open(work, os.O_RDONLY)
        for _ in range(3000):
            os.mkdir("d", dir_fd=here)
            below = os.open("d", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
        os.close(here)
    assert os.listdir(tmp_path) == [".lock"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_has_one_error(tmp_path: Path, number: int) -> None:
    with pytest.raises(NoSpaceError, match="is full"), workspace.workspace(tmp_path):
        raise OSError(number, os.strerror(number))


def test_required_space(tmp_path: Path) -> None:
    workspace.require_space(tmp_path, 1000, 1, "test")
    with pytest.raises(NoSpaceError, match=r"to test: .* MiB are needed, .* MiB are missing"):
        workspace.require_space(tmp_path, 1 << 60, 1, "test")


def test_locks_exclude_and_give_up_in_time(tmp_path: Path) -> None:
    with locked(tmp_path / "l", timeout=1):
        began = time.monotonic()
        with pytest.raises(StoreBusyError, match="in use"), locked(tmp_path / "l", timeout=0.2, shared=True):
            pass
        assert 0.2 <= time.monotonic() - began < 3
    with locked(tmp_path / "l", timeout=1, shared=True), locked(tmp_path / "l", timeout=0.2, shared=True):
        pass


def test_a_lock_is_waited_for(tmp_path: Path) -> None:
    holder = subprocess.Popen(["flock", str(tmp_path / "l"), "sh", "-c", "echo; sleep 0.3"], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.read(1)
    with locked(tmp_path / "l", timeout=10):
        pass
    holder.stdout.close()
    assert holder.wait(10) == 0

"""Copying output when it cannot be written: nobody reads it any more, or the disk is full."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from kata.ctl.attach import Attachment, end_by_pipe
from kata.errors import KataError
from kata.sandbox.errors import ConflictError
from kata.supervisor.client import Control


class Recorder:
    """Stands for the control service: remembers what it was asked for."""

    def __init__(self, error: KataError | None = None) -> None:
        self.asked: list[tuple[object, ...]] = []
        self._error = error

    def signal(self, number: int, exec_id: str = "") -> None:
        self._note("signal", number, exec_id)

    def stop(self, number: int, timeout: float) -> None:
        self._note("stop", number)

    def _note(self, *what: object) -> None:
        self.asked.append(what)
        if self._error is not None:
            raise self._error


@contextlib.contextmanager
def standard_output(fd: int) -> Iterator[None]:
    saved = os.dup(1)
    os.dup2(fd, 1)
    try:
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)


def stay(tmp_path: Path, control: Recorder, exec_id: str = "") -> int:
    """One attachment to a process that writes a line and ends with code 3."""
    with Attachment(tmp_path, "p", stdin=False, terminal=False) as attachment:
        ends = [os.open(path, os.O_WRONLY) for path in (attachment.paths.stdout, attachment.paths.stderr)]
        os.write(ends[0], b"a line\n")

        def wait() -> tuple[int, str]:
            for fd in ends:
                os.close(fd)
            return 3, ""

        return attachment.stay(wait, cast("Control", control), exec_id, terminal=False)


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """Whoever stays blocks signals for good: without this, every later test and its children would never get them."""
    saved = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, saved)


def test_output_that_nobody_reads_ends_the_container(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    control = Recorder()
    with standard_output(writing):
        assert stay(tmp_path, control) == 3
    os.close(writing)
    assert control.asked == [("stop", signal.SIGPIPE)]


def test_a_full_disk_is_an_error_whatever_the_command_says(tmp_path: Path) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    control = Recorder()
    with standard_output(full), pytest.raises(KataError, match="output cannot be written") as caught:
        stay(tmp_path, control)
    os.close(full)
    assert os.strerror(errno.ENOSPC) in caught.value.what
    assert "exit code 3" in caught.value.hint
    assert control.asked == [], "a full disk ends nothing"


def test_an_exec_gets_the_signal_alone() -> None:
    control = Recorder()
    end_by_pipe(cast("Control", control), "exec-1")
    assert control.asked == [("signal", signal.SIGPIPE, "exec-1")]


def test_one_that_ended_meanwhile_needs_no_signal() -> None:
    end_by_pipe(cast("Control", Recorder(ConflictError("the process is not running"))), "")

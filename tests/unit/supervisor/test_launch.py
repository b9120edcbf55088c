"""What the command hears from the process that it forked, and how errors travel between them."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata.errors import KataError
from kata.sandbox.errors import ConflictError, GuestError, SandboxError
from kata.sandbox.stdio import StdioPaths
from kata.sandbox.store import Store
from kata.supervisor import launch
from kata.supervisor.service import CODES, to_status
from tests.unit.sandbox.records import record


@pytest.mark.parametrize(
    "error",
    [
        GuestError("no answer", hint="wait", detail="console"),
        ConflictError("taken"),
        KataError("plain", layer="VMM"),
    ],
)
def test_an_error_is_the_same_on_the_other_side(error: KataError) -> None:
    other = launch._error_from(launch.report_error(error))
    assert (other.what, other.hint, other.detail, other.layer) == (error.what, error.hint, error.detail, error.layer)
    assert isinstance(other, type(error))


@pytest.mark.parametrize("name", ["KataError", "annotations", "no such thing", "ValueError"])
def test_a_report_cannot_choose_any_class(name: str) -> None:
    report = {"error": name, "what": "w", "hint": "", "detail": "", "layer": "host"}
    assert isinstance(launch._error_from(report), KataError)


RUNNING = b'{"status": "running"}\n'


@contextlib.contextmanager
def reports(data: bytes) -> Iterator[launch._Reports]:
    """What a child that wrote `data` and died left behind."""
    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)
    yield launch._Reports(reading)
    os.close(reading)


def line(report: dict[str, str]) -> bytes:
    return json.dumps(report).encode() + b"\n"


def test_the_end_is_told_though_it_came_before_anybody_asked() -> None:
    with reports(RUNNING + line(launch.report_end(7, "why"))) as found:
        found.started(5.0)
        assert launch.Launched(found).wait() == (7, "why")


def test_a_start_that_failed_is_that_error() -> None:
    with (
        reports(line(launch.report_error(GuestError("no answer")))) as found,
        pytest.raises(GuestError, match="no ans"),
    ):
        found.started(5.0)


def test_a_long_error_comes_through_whole() -> None:
    error = GuestError("no answer", detail="x" * 200_000)
    reading, writing = os.pipe()
    writer = threading.Thread(target=lambda: os.write(writing, line(launch.report_error(error))))
    writer.start()
    with pytest.raises(GuestError) as caught:
        launch._Reports(reading).started(5.0)
    writer.join()
    os.close(reading)
    os.close(writing)
    assert caught.value.detail == error.detail


@pytest.mark.parametrize("data", [b"", RUNNING[:7]])
def test_a_child_that_dies_is_an_error(data: bytes) -> None:
    with reports(data) as found, pytest.raises(SandboxError, match="died"):
        found.started(5.0)


def test_a_child_that_says_nothing_is_given_up() -> None:
    reading, writing = os.pipe()
    with pytest.raises(SandboxError, match="not running after"):
        launch._Reports(reading).started(0.05)
    os.close(reading)
    os.close(writing)


def test_a_sandbox_that_vanishes_while_it_runs_is_an_error() -> None:
    with reports(RUNNING) as found, pytest.raises(SandboxError, match="ended"):
        found.started(5.0)
        launch.Launched(found).wait()


def test_every_error_has_one_code_and_the_table_reads_both_ways() -> None:
    assert len({code for _, code in CODES}) == len(CODES)
    for kind, code in CODES:
        assert to_status(kind("x")).code == code


def test_a_fault_in_the_child_is_told_and_not_lost(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/state/file")

    monkeypatch.setattr("kata.supervisor.supervise.supervise", full)
    store = Store(tmp_path)
    one = record()
    lock = store.create(one)
    with pytest.raises(KataError, match="the disk is full"):
        launch.launch(store, one, StdioPaths(), lock)

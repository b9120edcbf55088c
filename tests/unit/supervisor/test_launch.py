"""What the command hears from the process that it forked, and how errors travel between them."""

from __future__ import annotations

import os

import pytest

from kata.errors import KataError
from kata.sandbox.errors import ConflictError, GuestError, SandboxError
from kata.supervisor import launch
from kata.supervisor.service import CODES, to_status


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


def read(data: bytes, timeout: float = 5.0) -> dict[str, str]:
    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)
    try:
        return launch._read_report(reading, timeout)
    finally:
        os.close(reading)


def test_a_report_is_one_json_line() -> None:
    assert read(b'{"status": "running"}') == {"status": "running"}


def test_a_child_that_dies_is_an_error() -> None:
    with pytest.raises(SandboxError, match="died"):
        read(b"")


def test_a_child_that_says_nothing_is_given_up() -> None:
    reading, writing = os.pipe()
    with pytest.raises(SandboxError, match="not running after"):
        launch._read_report(reading, 0.05)
    os.close(reading)
    os.close(writing)


def test_every_error_has_one_code_and_the_table_reads_both_ways() -> None:
    assert len({code for _, code in CODES}) == len(CODES)
    for kind, code in CODES:
        assert to_status(kind("x")).code == code

"""`kata logs` on files that are being written: each whole line once, across a turn-over."""

from __future__ import annotations

from pathlib import Path

import pytest

from kata.ctl.commands.logs import LogReader, show


def test_lines_come_whole_and_once(tmp_path: Path) -> None:
    path = tmp_path / "container.log"
    with LogReader(path) as reader:
        assert list(reader.lines()) == []
        with path.open("ab", buffering=0) as log:
            log.write(b"one\ntw")
            assert list(reader.lines()) == [b"one\n"]
            log.write(b"o\n")
            assert list(reader.lines()) == [b"two\n"]
            assert list(reader.lines()) == []


def test_a_turn_over_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "container.log"
    path.write_bytes(b"one\n")
    with LogReader(path) as reader:
        assert list(reader.lines()) == [b"one\n"]
        with path.open("ab") as log:
            log.write(b"two\n")
        path.rename(tmp_path / "container.log.1")
        path.write_bytes(b"three\n")
        assert list(reader.lines()) == [b"two\n", b"three\n"]
    with LogReader(path) as reader:
        assert list(reader.lines()) == [b"one\n", b"two\n", b"three\n"]


def test_streams_and_parts(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    import sys

    for line in (b"T stdout P no end", b"T stdout F  of line", b"T stderr F problem", b"damaged"):
        show(line + b"\n", timestamps=False)
    show(b"T stdout F stamped\n", timestamps=True)
    sys.stdout.flush()
    sys.stderr.flush()
    captured = capfdbinary.readouterr()
    assert captured.out == b"no end of line\nT stamped\n"
    assert captured.err == b"problem\n"

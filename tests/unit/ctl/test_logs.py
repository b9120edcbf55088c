"""`kata logs` on files that are being written: each whole line once, across a turn-over."""

from __future__ import annotations

import io
from pathlib import Path

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


def test_streams_and_parts() -> None:
    out, err = io.BytesIO(), io.BytesIO()
    for line in (b"T stdout P no end", b"T stdout F  of line", b"T stderr F problem", b"damaged"):
        show(line + b"\n", (out, err), timestamps=False)
    show(b"T stdout F stamped\n", (out, err), timestamps=True)
    assert out.getvalue() == b"no end of line\nT stamped\n"
    assert err.getvalue() == b"problem\n"

"""Streams of a task: FIFOs that outlive their clients, files, and loggers with their pipes."""

from __future__ import annotations

import os
import select
import threading
from pathlib import Path

import pytest

from kata.sandbox.stdio import InputPump
from kata.shim.stdio import HeldFifo, StdioError, connect
from tests.helpers.waiting import Later, now

ME = {"container_id": "box", "namespace": "ns"}


def test_a_client_may_come_late_go_away_and_come_back(tmp_path: Path) -> None:
    path = tmp_path / "out"
    os.mkfifo(path)
    sink = HeldFifo(str(path))
    sink.write("stdout", b"before ")
    first = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    assert os.read(first, 100) == b"before "
    os.close(first)
    sink.write("stdout", b"between ")
    second = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    sink.write("stdout", b"after")
    assert os.read(second, 100) == b"between after"
    sink.close()
    sink.close()
    assert os.read(second, 100) == b""
    os.close(second)


def test_closing_wakes_a_writer_that_nobody_reads(tmp_path: Path) -> None:
    path = tmp_path / "out"
    os.mkfifo(path)
    sink = HeldFifo(str(path))
    failed = threading.Event()

    def flood() -> None:
        try:
            sink.write("stdout", b"x" * (8 << 20))
        except OSError:
            failed.set()

    thread = threading.Thread(target=flood)
    thread.start()
    with_room, _, _ = select.select([sink._fd], [], [], 5.0)
    assert with_room
    sink.close()
    thread.join(10)
    assert failed.is_set()


def test_only_fifos_are_opened_as_such(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name in (tmp_path / "file", tmp_path / "missing"):
        with pytest.raises(StdioError, match="standard stream"):
            connect("", str(name), "", **ME)


def test_a_file_takes_both_streams_and_keeps_what_it_has(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("old ")
    streams = connect("", f"file://{path}", "", **ME)
    assert streams.stdout and streams.stderr
    streams.stdout.write("stdout", b"one ")
    streams.stderr.write("stderr", b"two")
    streams.stdout.close()
    streams.stderr.close()
    assert path.read_text() == "old one two"


def test_a_logger_reads_two_pipes_and_knows_whose_they_are(tmp_path: Path) -> None:
    script = tmp_path / "logger"
    script.write_text(
        "#!/bin/sh\n"
        f'echo "$1 $2 $CONTAINER_ID $CONTAINER_NAMESPACE $(env | wc -l)" > {tmp_path}/seen\n'
        "exec 5>&-\n"
        f"cat <&3 > {tmp_path}/out & cat <&4 > {tmp_path}/err; wait\n"
    )
    script.chmod(0o755)
    streams = connect("", f"binary://{script}?key=a%20value", "", **ME)
    assert streams.stdout and streams.stderr
    streams.stdout.write("stdout", b"to out")
    streams.stderr.write("stderr", b"to err")
    streams.stdout.close()
    streams.stderr.close()  # the last one waits for the logger's end
    assert (tmp_path / "seen").read_text().split()[:4] == ["key", "a", "value", "box"]
    assert ((tmp_path / "out").read_text(), (tmp_path / "err").read_text()) == ("to out", "to err")


@pytest.mark.parametrize("uri", ["binary:///no/such/program", "binary://host/path", "binary://"])
def test_a_logger_that_cannot_be(uri: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(StdioError):
        connect("", uri, "", **ME)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("finish_first", [True, False])
def test_held_input_ends_when_it_is_finished_and_its_writers_are_gone(tmp_path: Path, finish_first: bool) -> None:
    path = tmp_path / "in"
    os.mkfifo(path)
    got, closed = bytearray(), threading.Event()

    def write(data: bytes) -> Later[int]:
        got.extend(data)
        return now(len(data))

    pump = InputPump(str(path), write, closed.set, hold=True)
    if finish_first:
        client = os.open(path, os.O_WRONLY)
        pump.finish()
    pump.start()
    if not finish_first:
        passing = os.open(path, os.O_WRONLY)
        os.write(passing, b"one ")
        os.close(passing)  # this client goes; its input is not the end
        assert not closed.wait(0.3)
        client = os.open(path, os.O_WRONLY)
        pump.finish()
    os.write(client, b"two")
    os.close(client)
    assert closed.wait(10)
    assert bytes(got) == (b"two" if finish_first else b"one two")

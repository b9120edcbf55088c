"""Stdio: clients that go away, logs that do not grow for ever, input that ends."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from kata.sandbox import stdio
from kata.sandbox.errors import GuestError
from kata.sandbox.stdio import FifoSink, InputPump, LogSink, OutputPump
from tests.helpers.waiting import Later, now


def fifo(path: Path) -> str:
    os.mkfifo(path)
    return os.fspath(path)


def test_log_lines_have_time_stream_and_tag(tmp_path: Path) -> None:
    sink = LogSink(os.fspath(tmp_path / "log"))
    sink.write("stdout", b"one\ntwo")
    sink.write("stderr", b"\n")
    sink.close()
    lines = [line.split(b" ", 3)[1:] for line in (tmp_path / "log").read_bytes().splitlines()]
    assert lines == [[b"stdout", b"F", b"one"], [b"stdout", b"P", b"two"], [b"stderr", b"F", b""]]


def test_a_log_is_turned_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stdio, "LOG_LIMIT", 1000)
    sink = LogSink(os.fspath(tmp_path / "log"))
    for number in range(100):
        sink.write("stdout", b"%050d\n" % number)
    sink.close()
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert len(sizes) == 2
    assert max(sizes) <= 1000
    assert b"%050d" % 99 in (tmp_path / "log").read_bytes()


def test_output_goes_to_every_sink_and_a_lost_client_loses_only_its_own(tmp_path: Path) -> None:
    path = fifo(tmp_path / "out")
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    chunks = [b"first\n", b"second\n", b""]
    gone = threading.Event()

    def wait() -> bytes:
        if len(chunks) == 2:
            os.set_blocking(reader, True)
            assert os.read(reader, 100) == b"first\n"
            os.close(reader)
            gone.set()
        return chunks.pop(0)

    log = LogSink(os.fspath(tmp_path / "log"))
    pump = OutputPump("stdout", lambda: Later(wait), FifoSink(path), [log])
    pump.start()
    pump.join(5)
    log.close()
    assert gone.is_set()
    assert b"second" in (tmp_path / "log").read_bytes()


def test_a_dead_agent_ends_the_output(tmp_path: Path) -> None:
    path = fifo(tmp_path / "out")
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def wait() -> bytes:
        raise GuestError("gone")

    pump = OutputPump("stdout", lambda: Later(wait), FifoSink(path), [])
    pump.start()
    pump.join(5)
    os.set_blocking(reader, True)
    assert os.read(reader, 1) == b""
    os.close(reader)


class SlowSink:
    """Takes one piece each time that `go` is released."""

    def __init__(self) -> None:
        self.go = threading.Semaphore(0)
        self.taken: list[bytes] = []

    def write(self, stream: str, data: bytes) -> None:
        assert self.go.acquire(timeout=20)
        self.taken.append(data)

    def close(self) -> None:
        pass


def test_one_question_is_under_way_while_a_client_is_slow_and_never_two() -> None:
    sink, asked = SlowSink(), threading.Semaphore(0)
    pieces = [b"one", b"two", b"three", b""]
    count = 0

    def ask() -> Later[bytes]:
        nonlocal count
        count += 1
        asked.release()
        return Later(lambda: pieces.pop(0))

    pump = OutputPump("stdout", ask, sink, [])
    pump.start()
    for number in range(3):
        assert asked.acquire(timeout=20)
        if number == 0:
            assert asked.acquire(timeout=20), "the guest is not asked while the client is slow"
        assert not asked.acquire(timeout=0.05), "the guest is asked for more than one piece ahead"
        assert (count, len(sink.taken)) == (number + 2, number)
        sink.go.release()
    pump.join(20)
    assert sink.taken == [b"one", b"two", b"three"]
    assert count == 4


def test_what_came_before_the_guest_was_lost_is_delivered() -> None:
    sink, answers = SlowSink(), [b"last words"]

    def wait() -> bytes:
        if answers:
            return answers.pop()
        raise GuestError("gone")

    pump = OutputPump("stdout", lambda: Later(wait), sink, [])
    sink.go.release()
    pump.start()
    pump.join(20)
    assert sink.taken == [b"last words"]


def test_no_reader_is_an_error_and_so_is_no_fifo(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such device"):
        FifoSink(fifo(tmp_path / "out"))
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="not a FIFO"):
        FifoSink(os.fspath(tmp_path / "file"))


def test_input_is_copied_in_parts_and_its_end_is_told(tmp_path: Path) -> None:
    path = fifo(tmp_path / "in")
    taken: list[bytes] = []
    closed = threading.Event()

    def write(data: bytes) -> Later[int]:
        taken.append(data[:3])
        return now(min(3, len(data)))

    client = os.open(path, os.O_RDWR)
    pump = InputPump(path, write, closed.set, hold=False)
    pump.start()
    os.write(client, b"hello world")
    os.close(client)
    assert closed.wait(5)
    assert b"".join(taken) == b"hello world"


def test_a_stopped_input_lets_go_of_its_client(tmp_path: Path) -> None:
    path = fifo(tmp_path / "in")
    client = os.open(path, os.O_RDWR)
    pump = InputPump(path, lambda data: now(len(data)), lambda: None, hold=False)
    pump.start()
    pump.stop()
    pump.stop()
    pump._thread.join(5)
    assert not pump._thread.is_alive()
    os.close(client)


@pytest.mark.parametrize("taken", [0, -1, 10**9])
def test_an_agent_that_lies_about_what_it_took_ends_the_input(tmp_path: Path, taken: int) -> None:
    path = fifo(tmp_path / "in")
    client = os.open(path, os.O_RDWR)
    pump = InputPump(path, lambda data: now(taken), lambda: None, hold=False)
    pump.start()
    os.write(client, b"data")
    pump._thread.join(5)
    assert not pump._thread.is_alive()
    os.close(client)

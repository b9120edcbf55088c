"""Streams over real pipes and terminals."""

from __future__ import annotations

import os
import termios
import threading
import time
import tty

import pytest

from kata.agent.errors import WrongState
from kata.agent.stdio import DRAIN, SMALL, InputStream, OutputStream, end_of_file, resize
from kata.linux.fds import SharedFd, set_pipe_size


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


def make_pipe() -> tuple[int, int]:
    ends = os.pipe2(os.O_CLOEXEC)
    for end in ends:
        os.set_blocking(end, False)
    return ends


def test_read_blocks_until_there_is_data_and_ends_when_writers_go() -> None:
    before = open_fds()
    source, sink = make_pipe()
    out = OutputStream(SharedFd(source))
    threading.Timer(0.05, lambda: os.write(sink, b"data")).start()
    assert out.read(100) == b"data"
    os.write(sink, b"abc")
    assert (out.read(2), out.read(2)) == (b"ab", b"c")
    os.close(sink)
    assert out.read(100) == b""
    assert out.finished
    out.close()
    assert open_fds() == before


def test_much_output_is_read_into_one_buffer_a_thread_again_and_again() -> None:
    pipes = [make_pipe() for _ in range(2)]
    outs = [OutputStream(SharedFd(source)) for source, _ in pipes]
    got: dict[str, bytes | memoryview] = {}
    for (source, sink), byte in zip(pipes, b"ab", strict=True):
        set_pipe_size(source, 1 << 18)
        os.write(sink, bytes([byte]) * (SMALL + 2) + b"end")
    here = outs[0].read(SMALL + 1)
    there = threading.Thread(target=lambda: got.update(data=outs[1].read(SMALL + 1)))
    there.start()
    there.join(20)
    assert (here, got["data"]) == (b"a" * (SMALL + 1), b"b" * (SMALL + 1)), "another thread has a buffer of its own"
    rest = outs[0].read(SMALL)
    assert rest == b"aend"
    assert isinstance(rest, bytes), "little output is good for ever"
    assert bytes(here[:5]) == b"aenda", "the buffer is used again"
    for out, (_, sink) in zip(outs, pipes, strict=True):
        out.close()
        os.close(sink)


def test_after_the_process_the_rest_is_drained_then_it_ends_though_the_pipe_is_held() -> None:
    source, sink = make_pipe()
    out = OutputStream(SharedFd(source))
    os.write(sink, b"x" * 5000)
    out.process_ended()
    started = time.monotonic()
    assert b"".join(iter(lambda: out.read(1000), b"")) == b"x" * 5000
    assert time.monotonic() - started < DRAIN + 1.0
    os.close(sink)
    out.close()


def test_what_was_in_the_pipe_is_delivered_however_late_the_reader_is() -> None:
    source, sink = make_pipe()
    out = OutputStream(SharedFd(source))
    os.write(sink, b"x" * 5000)
    out.process_ended()
    time.sleep(DRAIN + 0.1)
    assert b"".join(iter(lambda: out.read(1000), b"")) == b"x" * 5000
    os.close(sink)
    out.close()


def test_a_grandchild_that_never_stops_writing_does_not_keep_the_reader() -> None:
    source, sink = make_pipe()
    out = OutputStream(SharedFd(source))
    out.process_ended()
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            try:
                os.write(sink, b"y" * 4096)
            except BlockingIOError:
                time.sleep(0.001)

    writer = threading.Thread(target=write)
    writer.start()
    started = time.monotonic()
    while out.read(1 << 16):
        assert time.monotonic() - started < 30.0
    stop.set()
    writer.join()
    os.close(sink)
    out.close()


def test_close_wakes_a_reader_and_gives_the_descriptor_back() -> None:
    before = open_fds()
    source, sink = make_pipe()
    out = OutputStream(SharedFd(source))
    got: list[bytes | memoryview] = []
    reader = threading.Thread(target=lambda: got.append(out.read(10)))
    reader.start()
    time.sleep(0.05)
    out.close()
    reader.join(5)
    assert got == [b""]
    os.close(sink)
    assert open_fds() == before


def test_write_waits_for_room_and_is_whole() -> None:
    source, sink = make_pipe()
    stdin = InputStream(SharedFd(sink), terminal=False)
    data = os.urandom(300_000)
    received = bytearray()

    def read() -> None:
        os.set_blocking(source, True)
        while chunk := os.read(source, 7000):
            received.extend(chunk)

    reader = threading.Thread(target=read)
    reader.start()
    assert stdin.write(data) == len(data)
    stdin.end()
    stdin.end()
    reader.join(10)
    assert bytes(received) == data
    os.close(source)
    with pytest.raises(WrongState):
        stdin.write(b"late")


def test_write_without_a_reader_is_an_error() -> None:
    source, sink = make_pipe()
    stdin = InputStream(SharedFd(sink), terminal=False)
    os.close(source)
    with pytest.raises(WrongState, match="broken pipe"):
        stdin.write(b"x")
    stdin.close()


def test_ending_the_input_ends_a_blocked_write() -> None:
    source, sink = make_pipe()
    stdin = InputStream(SharedFd(sink), terminal=False)
    errors: list[WrongState] = []

    def write() -> None:
        try:
            stdin.write(b"x" * 1_000_000)
        except WrongState as error:
            errors.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    time.sleep(0.05)
    stdin.end()
    writer.join(5)
    assert len(errors) == 1
    os.close(source)


def test_end_of_input_on_a_terminal_in_line_mode() -> None:
    master, slave = os.openpty()
    os.set_blocking(master, False)
    shared = SharedFd(master)
    stdin = InputStream(shared, terminal=True)
    stdin.write(b"no newline")
    stdin.end()
    stdin.end()
    assert os.read(slave, 100) == b"no newline"
    assert os.read(slave, 100) == b"", "end of file, and the terminal is still open"
    os.write(slave, b"alive")
    os.close(slave)
    shared.close()


def test_a_raw_terminal_gets_no_end_of_file_character() -> None:
    master, slave = os.openpty()
    assert end_of_file(master, in_line=False) == b"\x04"
    assert end_of_file(master, in_line=True) == b"\x04\x04"
    tty.setraw(slave)
    assert end_of_file(master, in_line=True) == b""
    os.close(master)
    os.close(slave)


def test_the_end_of_a_terminal_is_the_end_of_the_stream() -> None:
    master, slave = os.openpty()
    os.set_blocking(master, False)
    out = OutputStream(SharedFd(master))
    os.write(slave, b"bye")
    os.close(slave)
    assert (out.read(100), out.read(100)) == (b"bye", b"")
    out.close()


def test_resize() -> None:
    master, slave = os.openpty()
    resize(master, 31, 97)
    assert termios.tcgetwinsize(slave) == (31, 97)
    os.close(master)
    os.close(slave)

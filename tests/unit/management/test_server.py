"""The server against clients that behave, and clients that do not."""

from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kata.linux.peer import peer_uid
from kata.log import Logger
from kata.management import server as module
from kata.management.http import Request, Response
from kata.management.server import ManagementServer


class Answers:
    """Keeps what was asked, and waits before it answers while `gate` is shut."""

    def __init__(self) -> None:
        self.seen: list[Request] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, request: Request) -> Response:
        self.gate.wait(30)
        self.seen.append(request)
        return Response(b"<" + request.body + b">")


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
def path(tmp_path: Path, answers: Answers) -> Iterator[Path]:
    with ManagementServer(
        str(tmp_path / "m.sock"), answers, Logger(2), request_timeout=1.0, answer_timeout=1.0
    ) as server:
        server.start()
        yield tmp_path / "m.sock"
    assert not (tmp_path / "m.sock").exists()


def connect(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(20)
    sock.connect(str(path))
    return sock


def ask(path: Path, data: bytes, *, finish: bool = False) -> bytes:
    with connect(path) as sock:
        try:
            sock.sendall(data)
            if finish:
                sock.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it was refused before we had sent all: the answer is there to be read
        return read(sock)


def read(sock: socket.socket) -> bytes:
    said = b""
    try:
        while data := sock.recv(65536):
            said += data
    except ConnectionResetError:
        pass  # it closed before it had read all of ours
    return said


def status(said: bytes) -> int:
    return int(said.split(b" ", 2)[1])


def test_one_request_a_connection(path: Path, answers: Answers) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    said = ask(path, b"PUT /x HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGET /next HTTP/1.1\r\n\r\n")
    assert said.endswith(b"\r\n\r\n<abc>")
    assert answers.seen == [Request("PUT", "/x", {}, b"abc")]
    assert ask(path, b"HEAD /x HTTP/1.1\r\n\r\n").endswith(b"Connection: close\r\n\r\n")


def test_a_client_that_wants_to_be_told_to_go_on(path: Path) -> None:
    with connect(path) as sock:
        sock.sendall(b"PUT /x HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"ok")
        assert read(sock).endswith(b"<ok>")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"GET /x HTT", 408),
        (b"PUT /x HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc", 408),
        (b"nonsense\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\nA: " + b"b" * 20000 + b"\r\n\r\n", 431),
        (b"x" * 100_000, 431),
    ],
)
def test_bad_and_slow_clients_are_told(path: Path, answers: Answers, data: bytes, code: int) -> None:
    assert status(ask(path, data)) == code
    assert answers.seen == []


def test_a_client_that_hangs_up_early(path: Path) -> None:
    assert status(ask(path, b"GET /x", finish=True)) == 400
    connect(path).close()
    assert status(ask(path, b"GET /x HTTP/1.1\r\n\r\n")) == 200


def test_too_many_at_once_are_refused_and_the_others_served(path: Path, answers: Answers) -> None:
    answers.gate.clear()
    waiting = [connect(path) for _ in range(module.MAX_CONNECTIONS)]
    for sock in waiting:
        sock.sendall(b"GET /x HTTP/1.1\r\n\r\n")
    with connect(path) as sock:
        assert status(read(sock)) == 503
    answers.gate.set()
    for sock in waiting:
        with sock:
            assert status(read(sock)) == 200
    assert status(ask(path, b"GET /x HTTP/1.1\r\n\r\n")) == 200


def test_only_root_and_ourselves(path: Path, monkeypatch: pytest.MonkeyPatch, answers: Answers) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert peer_uid(ours.fileno()) == os.getuid()
    monkeypatch.setattr(module, "peer_uid", lambda _: 12345)
    assert status(ask(path, b"GET /x HTTP/1.1\r\n\r\n")) == 403
    assert answers.seen == []


def test_closing_ends_what_is_open(tmp_path: Path, answers: Answers) -> None:
    server = ManagementServer(str(tmp_path / "s"), answers, Logger(2))
    server.start()
    with connect(tmp_path / "s") as sock:
        sock.sendall(b"GET /")
        while not server._connections:
            pass
        server.close()
        server.close()
        assert b"200" not in read(sock)
    assert not (tmp_path / "s").exists()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_any_bytes_are_answered_and_harm_nothing(path: Path, data: bytes) -> None:
    assert status(ask(path, data, finish=True)) in (200, 400, 411, 413, 431, 505)

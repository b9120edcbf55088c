"""The debug console's client, with a real shell on a real terminal at the other end."""

from __future__ import annotations

import io
import os
import pty
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kata.ctl import console
from kata.protocol.connection import Connection, SocketConnection
from kata.sandbox.errors import GuestError

SHELLS = [["/bin/sh", "-i"], *([["/bin/bash", "--norc", "-i"]] if os.path.exists("/bin/bash") else [])]
SHELLS += [["busybox", "sh"]] if shutil.which("busybox") else []


@contextmanager
def shell(argv: list[str]) -> Iterator[Connection]:
    """A connection to a shell on a terminal of its own, as the agent makes it."""
    master, slave = pty.openpty()
    ours, theirs = socket.socketpair()
    environment = {"PATH": "/usr/bin:/bin", "TERM": "linux", "HISTFILE": ""}
    child = subprocess.Popen(
        argv, stdin=slave, stdout=slave, stderr=slave, start_new_session=True, env=environment, close_fds=True
    )
    os.close(slave)
    agent = SocketConnection(theirs)
    threads = [
        threading.Thread(target=copy, args=(lambda: os.read(master, 65536), agent.write), daemon=True),
        threading.Thread(
            target=copy, args=(lambda: agent.read(65536), lambda data: os.write(master, data)), daemon=True
        ),
    ]
    for thread in threads:
        thread.start()
    connection = SocketConnection(ours)
    try:
        yield connection
    finally:
        child.kill()
        child.wait()
        connection.shutdown()
        agent.shutdown()
        for thread in threads:
            thread.join(10)
        os.close(master)
        agent.close()
        connection.close()


def copy(read, write) -> None:  # type: ignore[no-untyped-def]
    try:
        while data := read():
            write(data)
    except OSError:
        pass


@pytest.mark.parametrize("argv", SHELLS, ids=lambda argv: argv[0])
def test_scripts_and_their_exit_codes(argv: list[str]) -> None:
    script = 'for i in 1 2; do\n\techo "line $i" \'q\'\ndone; echo err >&2\nprintf "no end ä\\t!"; exit 7'
    with shell(argv) as connection:
        output = io.BytesIO()
        assert console.run(connection, script, output) == 7
        assert output.getvalue().decode() == "line 1 q\nline 2 q\nerr\nno end ä\t!"
        output = io.BytesIO()
        assert console.run(connection, "exec 3<&0; cat; false", output) == 1
        assert output.getvalue() == b""


def test_a_long_script_and_much_output() -> None:
    text = "".join(f"# {'x' * 70} {number}\n" for number in range(100))
    with shell(SHELLS[0]) as connection:
        output = io.BytesIO()
        assert console.run(connection, f"{text}seq 20000", output) == 0
        assert output.getvalue() == b"".join(b"%d\n" % number for number in range(1, 20001))


@settings(max_examples=200)
@given(st.text(max_size=300))
def test_what_is_typed_is_plain(script: str) -> None:
    if "\ud800" <= max(script, default="") <= "\udfff":
        return
    for line in console.typed(script.encode("utf-8", "ignore").decode(), "0123456789abcdef"):
        assert len(line) < 2600 and all(" " <= char <= "~" for char in line)


def test_a_guest_without_a_shell() -> None:
    ours, theirs = socket.socketpair()
    with SocketConnection(ours) as connection, theirs:
        theirs.sendall(console.NO_SHELL + b"\r\n")
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(GuestError, match=r"no shell|ended"):
            console.run(connection, "true", io.BytesIO())


def test_a_console_that_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    with SocketConnection(ours) as connection:
        theirs.close()
        with pytest.raises((GuestError, OSError)):
            console.run(connection, "true", io.BytesIO())


def test_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "ASK_AGAIN", 0.05)
    ours, theirs = socket.socketpair()
    with SocketConnection(ours) as connection, theirs, pytest.raises(GuestError, match=r"no shell answered.*questions"):
        console.run(connection, "true", io.BytesIO(), answer_timeout=0.2)


@pytest.mark.parametrize(("typed", "sent"), [(b"ab\x1dcd", b"ab"), (b"\x1d", b"")])
def test_the_key_that_leaves(typed: bytes, sent: bytes) -> None:
    ours, theirs = socket.socketpair()
    source, sink = os.pipe()
    with SocketConnection(ours) as connection, theirs:
        theirs.sendall(b"said")
        os.write(sink, typed)
        done, out = os.pipe()
        console.relay(connection, source, out)
        connection.shutdown()
        assert os.read(done, 100) == b"said"
        assert theirs.recv(100) == sent
    for fd in (source, sink, done, out):
        os.close(fd)

"""The debug console: a real shell on a terminal for every connection, gone with it; nothing else is touched."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from kata.agent import debug
from kata.protocol.transport import dial

SRC = Path(__file__).parents[3] / "src"
# A process of its own: a Reaper waits for all children, and those of a test run are not its business.
SERVER = """
import sys, threading
from kata.agent.debug import DebugConsole
from kata.linux.reaper import Reaper
from kata.log import Logger
shells = [["/nowhere/shell"], *([["/bin/sh"]] if sys.argv[2] == "sh" else [])]
console = DebugConsole(Reaper(), Logger(2), lambda: sys.argv[1], serial=False, shells=shells)
console.start()
threading.Event().wait()
"""


class Console(AbstractContextManager["Console"]):
    """A connection to the debug console, and what came of it so far."""

    def __init__(self, address: str) -> None:
        self.connection = dial(address, 5.0)
        self.said = b""

    def __exit__(self, *_exception: object) -> None:
        self.connection.close()

    def type(self, text: str) -> None:
        self.connection.write(text.encode())

    def until(self, text: str) -> str:
        while text.encode() not in self.said:
            data = self.connection.read(65536)
            assert data, self.said
            self.said += data
        return self.said.decode()

    def ask(self, command: str) -> str:
        """The output of a command, between two marks that the echo of the command does not hold."""
        self.type(f"echo beg''in; {command}; echo en''d\r")
        return self.until("end\r\n").partition("begin\r\n")[2].partition("end\r\n")[0]


class Server(NamedTuple):
    """A process that serves debug consoles."""

    address: str
    pid: int

    def children(self) -> list[int]:
        return [int(word) for word in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def wait_for(self, command: str) -> None:
        """Until something runs with this command line."""
        deadline = time.monotonic() + 20.0
        while not self._runs(command):
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def wait_gone(self, command: str, act: Callable[[], None]) -> None:
        """Until it runs no more. A program may run before the terminal is its own: so `act` again and again."""
        deadline = time.monotonic() + 20.0
        while self._runs(command):
            assert time.monotonic() < deadline
            act()
            time.sleep(0.2)

    def _runs(self, command: str) -> bool:
        line = command.replace(" ", "\0") + "\0"
        return line in (read_quietly(path) for path in Path("/proc").glob("[0-9]*/cmdline"))


def read_quietly(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


@pytest.fixture
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    address = f"unix://{tmp_path}/debug.sock"
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, address, getattr(request, "param", "sh")],
        env={**os.environ, "PYTHONPATH": str(SRC)},
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 20.0
    while not (tmp_path / "debug.sock").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    yield Server(address, process.pid)
    process.kill()
    process.wait(10)


@pytest.mark.timeout(60)
def test_a_shell_on_a_terminal_of_its_own(server: Server) -> None:
    with Console(server.address) as console:
        said = console.ask("tty; stty size; ps -o sid= -o pgid= -p $$; echo $$; pwd")
        tty, size, ids, pid, folder = (line.strip() for line in said.splitlines())
        assert (tty.startswith("/dev/pts/"), size, ids.split(), folder) == (True, "24 80", [pid, pid], os.getcwd())
        program = f"sleep {1_000_000 + os.getpid()}"  # nobody else's
        console.type(f"{program}\r")
        server.wait_for(program)
        server.wait_gone(program, lambda: console.type("\x03"))  # Ctrl-C reaches the foreground, not the shell
        console.type("echo interr''upted\r")
        console.until("interrupted")


@pytest.mark.timeout(60)
def test_it_ends_with_its_connection_with_all_it_started(server: Server) -> None:
    with Console(server.address) as console:
        said = console.ask("nohup sleep 1234 >/dev/null 2>&1 & echo pids $! $$")
        numbers = said.partition("pids ")[2].split()[:2]
        handles = [os.pidfd_open(int(number)) for number in numbers]
    for handle in handles:
        assert wait_for_end(handle)
        os.close(handle)


@pytest.mark.timeout(60)
def test_shells_do_not_know_of_each_other_and_another_follows_one_that_ended(server: Server) -> None:
    with ExitStack() as stack:
        first, second, third = (stack.enter_context(Console(server.address)) for _ in range(3))
        assert first.ask("echo $$") != second.ask("echo $$")
        first.type("exit\r")
        while first.connection.read(4096):
            pass  # the console hangs up
        assert third.ask("echo again").strip() == "again"
        second.type("echo still he''re\r")
        second.until("still here")


@pytest.mark.timeout(60)
def test_a_flood_of_output_can_be_interrupted(server: Server) -> None:
    with Console(server.address) as console:
        console.type("yes\r")
        console.until("y\r\ny\r\n")
        console.type("\x03echo over''flown\r")
        console.until("overflown")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("server", ["none"], indirect=True)
def test_a_guest_without_a_shell_says_so(server: Server) -> None:
    with Console(server.address) as console:
        console.until("has no shell")
        assert server.children() == []


def wait_for_end(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(20000))


def test_the_console_behind_the_console(tmp_path: Path) -> None:
    (tmp_path / "active").write_text("tty0 null\n")
    assert debug.serial_console(str(tmp_path / "active")) == "/dev/null"
    (tmp_path / "active").write_text("no-such-terminal\n")
    assert debug.serial_console(str(tmp_path / "active")) == ""
    assert debug.serial_console(str(tmp_path / "missing")) == ""


def test_members_of_a_session(tmp_path: Path) -> None:
    rows = {"10": "(sh) S 1 10 10 0", "11": "(a) b) S 10 11 10 0", "12": "(x) S 1 12 12 0", "13": "(y"}
    for pid, row in rows.items():
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "stat").write_text(f"{pid} {row}\n")
    (tmp_path / "14").mkdir()
    (tmp_path / "self").mkdir()
    assert sorted(debug.session_members(10, str(tmp_path))) == [10, 11]

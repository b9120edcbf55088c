"""Zygotes of a small program: what their children are, and what happens when something is wrong with them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kata.zygote.message import READY, Request, encode

SRC = str(Path(__file__).parents[2] / "src")
TIMEOUT = 20.0
PROGRAM = f"""
import sys
sys.path[:0] = [{SRC!r}, __file__.rpartition("/")[0]]
from kata.zygote.ask import ask
from kata.zygote.launch import WORD, launch

def run(argv):
    import os, signal
    marker = os.path.join(os.path.dirname(os.path.abspath(__file__)), "ran")
    open(marker, "a").close()
    if argv[-1] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if argv[-1] == "raise":
        raise ValueError("no such thing")
    if argv[-1] == "exit":
        sys.exit(9)
    import json
    umask = os.umask(0)
    said = dict(
        argv=argv, cwd=os.getcwd(), umask=umask, environ=dict(os.environ), stdin=sys.stdin.read(), pid=os.getpid(),
        fds=[kind for fd in range(3, 100) if (kind := kind_of(fd))],
        title=open("/proc/self/cmdline").read(), comm=open("/proc/self/comm").read(),
        child=signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL, policy=os.sched_getscheduler(0),
    )
    print(json.dumps(said))
    sys.stderr.write("said")
    return 7

def kind_of(fd):
    import os
    try:
        return os.readlink(f"/proc/self/fd/{{fd}}").split(":")[0]
    except OSError:
        return ""

def load():
    import loaded

if sys.argv[1:2] == [WORD]:
    from kata.zygote.serve import serve
    sys.exit(serve(sys.argv[2], sys.argv[3], load, run, idle={{idle}}))
if sys.argv[1] == "launch":
    print(launch())
else:
    done = ask(["a program", *sys.argv[1:]], again=sys.argv[1] == "again")
    if isinstance(done, int):
        sys.exit(done)
    print(done)
"""


class Program:
    """The program, and its zygotes."""

    def __init__(self, folder: Path, idle: float = 60.0) -> None:
        self.folder = folder
        self.path = folder / "program.py"
        self.path.write_text(PROGRAM.replace("{idle}", str(idle)))
        (folder / "loaded.py").write_text("")
        self.environ = {"KATA_STATE_DIR": str(folder), "EMPTY": "", "TEXT": "a=b\nü"}

    def run(self, *words: str, **options: object) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        chosen = {"input": "", "env": self.environ, "timeout": TIMEOUT, **options}
        command = [sys.executable, "-I", "-S", str(self.path), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, **chosen)  # type: ignore[call-overload,no-any-return]

    def ask(self, *words: str, **options: object) -> subprocess.CompletedProcess[str]:
        """Run it through a zygote; on a busy machine one may be kept waiting too long, which is not what is tested."""
        deadline = time.monotonic() + TIMEOUT
        while "did not answer" in (done := self.run(*words, **options)).stdout:
            assert time.monotonic() < deadline
        return done

    def launch(self) -> int:
        """Start a zygote; its process id, once it listens."""
        assert self.run("launch").stdout == "True\n"
        return self.listening()

    def listening(self) -> int:
        """The process id of the zygote, once it listens."""
        until(lambda: bool(self.sockets()))
        with self.connect() as sock:
            return int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[:4], sys.byteorder)

    def sockets(self) -> list[Path]:
        """Where zygotes listen, or have."""
        return [path for path in (self.folder / "zygote").glob("*") if path.is_socket()]

    def connect(self) -> socket.socket:
        """A connection to the zygote."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.settimeout(TIMEOUT)
        sock.connect(str(self.sockets()[0]))
        return sock

    @property
    def ran(self) -> bool:
        """Whether a child has done anything."""
        return (self.folder / "ran").exists()


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    made = Program(tmp_path)
    yield made
    for path in made.sockets():
        path.unlink()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_a_child_is_what_the_asker_would_have_been(program: Program, tmp_path: Path) -> None:
    program.launch()
    (tmp_path / "at").mkdir()
    done = program.ask("ask", "two words", input="some input", cwd=tmp_path / "at", umask=0o123)
    assert (done.returncode, done.stderr) == (7, "said")
    said = json.loads(done.stdout)
    assert said["argv"] == ["a program", "ask", "two words"]
    assert said["title"].rstrip("\0").split("\0") == said["argv"]
    assert said["comm"] == "a program\n"
    assert said["cwd"] == str(tmp_path / "at")
    assert said["umask"] == 0o123
    said["environ"].pop("LC_CTYPE", None)  # Python sets it itself where it finds no locale (PEP 538)
    assert said["environ"] == program.environ
    assert said["stdin"] == "some input"
    assert said["fds"] == ["socket"]  # to the asker, and nothing of the zygote's
    assert said["child"]
    assert said["policy"] == os.SCHED_OTHER
    assert program.ask("exit").returncode == 9


def test_without_one_the_asker_is_told(program: Program) -> None:
    assert program.run("ask").stdout == "there is no zygote yet\n"
    program.environ["KATA_ZYGOTE"] = "off"
    assert program.run("ask").stdout == "zygotes are switched off\n"
    assert program.run("launch").stdout == "False\n"


def test_a_dead_one_makes_room(program: Program) -> None:
    os.kill(program.launch(), signal.SIGKILL)
    assert program.run("ask").stdout == "the zygote is dead\n"
    assert program.run("launch").stdout == "True\n"
    until(lambda: program.run("ask").returncode == 7)


def test_a_stuck_one_does_nothing_later(program: Program) -> None:
    pid = program.launch()
    os.kill(pid, signal.SIGSTOP)
    try:
        assert "did not answer" in program.run("ask").stdout
    finally:
        os.kill(pid, signal.SIGCONT)
    assert not program.ran
    assert program.ask("ask").returncode == 7


def test_who_goes_away_before_the_word_wants_nothing(program: Program) -> None:
    program.launch()
    with program.connect() as sock:
        sock.send(encode(Request(["a program", "ask"], {}, 0)))
        assert sock.recv(16) == READY
        children = _children_of(program.listening())
        assert len(children) == 1
    until(lambda: all(gone(pid) for pid in children))
    assert not program.ran


@pytest.mark.parametrize("data", [b"x", b"\0\0\0", b"7\x009\0a", b"\xff" * 1000])
def test_garbage_is_answered_in_words(program: Program, data: bytes) -> None:
    program.launch()
    with program.connect() as sock:
        sock.send(data)
        assert sock.recv(300).startswith(b"the zygote cannot read what it is asked")
    assert program.ask("ask").returncode == 7


def test_who_says_nothing_does_not_keep_others_for_long(program: Program) -> None:
    program.launch()
    with program.connect():
        until(lambda: program.run("ask").returncode == 7)


def test_what_is_too_big_is_not_asked(program: Program) -> None:
    program.launch()
    program.environ |= {f"V{number}": "x" * 100_000 for number in range(3)}
    assert "too big" in program.ask("ask").stdout


def test_changed_code_is_not_run(program: Program) -> None:
    pid = program.launch()
    assert program.ask("ask").returncode == 7  # it has answered everybody by now
    (program.folder / "loaded.py").write_text("NEW = 1\n")
    assert program.ask("ask").stdout == "the zygote had loaded files that have changed\n"
    assert program.run("launch").stdout == "True\n"
    until(lambda: gone(pid))
    until(lambda: program.run("ask").returncode == 7)


def test_it_ends_when_its_socket_or_its_folder_is_removed(program: Program) -> None:
    pid = program.launch()
    program.sockets()[0].unlink()
    until(lambda: gone(pid))
    assert list((program.folder / "zygote").iterdir()) == []
    pid = program.launch()
    os.rename(program.folder / "zygote", program.folder / "old")
    for path in (program.folder / "old").iterdir():
        path.unlink()
    until(lambda: gone(pid))


def test_it_ends_when_nobody_asks(tmp_path: Path) -> None:
    program = Program(tmp_path, idle=0.5)
    pid = program.launch()
    until(lambda: gone(pid))
    assert list((tmp_path / "zygote").iterdir()) == []


def test_there_is_only_one(program: Program) -> None:
    with ThreadPoolExecutor(8) as pool:
        started = [done.stdout for done in pool.map(lambda _: program.run("launch"), range(8))]
    assert started.count("True\n") == 1
    program.listening()
    assert len(program.sockets()) == 1


def test_there_is_none_of_what_starts_threads(program: Program) -> None:
    thread = "threading.Thread(target=threading.Event().wait, daemon=True).start()"
    (program.folder / "loaded.py").write_text(f"import threading\n{thread}\n")
    assert program.run("launch").stdout == "True\n"
    until(lambda: program.run("launch").stdout == "True\n")  # the first has ended
    assert program.sockets() == []


def test_it_serves_its_own_context_only(program: Program) -> None:
    program.launch()
    assert program.run("ask", preexec_fn=lambda: os.nice(1)).stdout == "there is no zygote yet\n"


def test_a_child_that_dies_leaves_what_may_be_done_twice_to_the_asker(program: Program) -> None:
    program.launch()
    done = program.ask("again", "die")
    assert (done.stdout, done.stderr) == ("the process that a zygote forked has died\n", "")


def test_a_child_that_dies_is_an_error(program: Program) -> None:
    pid = program.launch()
    done = program.ask("die")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("kata: host: the process that a zygote forked for this has died")
    until(lambda: _children_of(pid) == [])  # no zombie


def test_what_a_child_does_not_expect_is_said_without_a_traceback(program: Program) -> None:
    program.launch()
    done = program.ask("raise")
    assert done.returncode == 1
    assert "an unexpected fault: ValueError: no such thing" in done.stderr
    assert "Traceback" not in done.stderr


def test_many_at_once(program: Program) -> None:
    pid = program.launch()
    with ThreadPoolExecutor(16) as pool:
        done = list(pool.map(lambda _: program.run("ask"), range(32)))
    answers = [json.loads(one.stdout)["pid"] for one in done if one.returncode == 7]
    assert len(set(answers)) == len(answers)
    # One that was kept waiting too long does it alone; there is no third case.
    assert all("did not answer" in one.stdout for one in done if one.returncode != 7)
    assert answers
    until(lambda: _children_of(pid) == [])


def _children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

"""A lying guest and the tools that people use: metrics, packet filter, exec, `kata-agent-ctl`, the consoles.

What it says reaches a terminal as text and colours alone, costs little memory and time, and ends with a sentence.
"""

from __future__ import annotations

import io
import os
import pty
import random
import re
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from kata.agentctl.__main__ import main as agent_ctl
from kata.ctl import console
from kata.ctl.errors import show
from kata.ctl.terminal import Shown
from kata.errors import KataError
from kata.hypervisor.qemu.console import Console, clean_lines
from kata.management import client as management
from kata.management import metrics as figures
from kata.management.durations import Durations
from kata.management.errors import RefusedError
from kata.management.serve import serve
from kata.protocol.connection import SocketConnection
from kata.protocol.server import Server
from kata.protocol.status import RpcError
from kata.protocol.transport import listen
from kata.sandbox import agent_client
from kata.sandbox import spec as specs
from kata.sandbox.config import Patience
from kata.sandbox.errors import GuestError
from kata.sandbox.sandbox import Sandbox
from kata.sandbox.stdio import StdioPaths
from kata.supervisor import service as supervisor
from kata.supervisor.client import SOCKET, Control
from kata.supervisor.service import ControlService, to_status
from tests.helpers import lying, puppets
from tests.helpers.lying import ESCAPES, Lie, LyingAgent, bounds
from tests.helpers.puppets import Machine, machines, quiet, running

pytestmark = [pytest.mark.root]
__all__ = ["machines"]

UNSAFE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
QUESTIONS = (("GET", "/metrics"), ("GET", "/iptables"), ("PUT", "/iptables"), ("PUT", "/policy"))


@pytest.fixture
def agent(tmp_path: Path, machines: Callable[[str, LyingAgent], None]) -> LyingAgent:
    made = LyingAgent(tmp_path / "agent")
    machines("box", made)
    return made


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_client, "METRICS_TIMEOUT", 0.3)
    monkeypatch.setattr(puppets, "PATIENCE", Patience(attempt=2.0, create=0.2, request=0.2))


@contextmanager
def managed(agent: LyingAgent) -> Iterator[Sandbox]:
    """A sandbox with a container and its management socket; honest so far."""
    from kata import paths

    log = quiet()
    with agent, running("box") as sandbox:
        folder = paths.sandboxes_dir() / "box"
        folder.mkdir(parents=True)
        sandbox.create_container(puppets.container_config("box")).start(lambda _: None)
        with serve(sandbox, "box", Durations(), Durations(), log):
            yield sandbox
        folder.rmdir()
    os.close(log.fd)


@pytest.mark.parametrize("lie", lying.LIES, ids=lambda lie: lie.__name__)
def test_the_management_socket_always_answers(agent: LyingAgent, lie: Lie) -> None:
    with managed(agent) as sandbox:
        agent.lies["*"] = lie
        with bounds(seconds=10, mib=64):
            for method, path in QUESTIONS:
                try:
                    management.request("box", method, path, b"rules" if method == "PUT" else b"")
                except RefusedError as error:
                    assert error.status in (404, 502, 504), error
                    assert error.what.isprintable()
            sandbox.agent.close()


@pytest.mark.parametrize("seed", range(10))
def test_any_metrics_are_a_text_that_prometheus_reads(agent: LyingAgent, seed: int) -> None:
    """The oracle is the format itself: every line a comment or one sample, none twice, all numbers."""
    agent.random.seed(seed)
    source = random.Random(seed)

    def metrics(asked: lying.Asked) -> None:
        answer = asked.method.response()
        words = ["kata_guest_x", "kata_shim_threads", "process_y", "{", "}", 'a="', '"', ",", " ", "1", "NaN", "\n"]
        words += ["# TYPE kata_guest_x ", "gauge", "+Inf", "1e5", "0x1", "\\", ESCAPES, " HELP ", "kata_agent_z 5\n"]
        answer.metrics = "".join(source.choices(words, k=5000)) + "\nkata_guest_tail 1\n"  # type: ignore[attr-defined]
        asked.reply(answer)

    agent.lies["GetMetrics"] = metrics
    agent.lies["StatsContainer"] = lying.extremes
    with managed(agent):
        text = management.request("box", "GET", "/metrics").decode()
    series = set()
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        name, value = line.rsplit(" ", 1)
        assert re.fullmatch(r'[a-z_0-9]+(\{[a-z_]+="[^\n]*"\})?', name), line
        float(value)
        assert name not in series
        series.add(name)
    assert "kata_shim_threads" in text
    assert len([line for line in text.splitlines() if line.startswith("kata_shim_threads ")]) == 1
    assert "kata_shim_pod_overhead_memory_in_bytes" in text


def test_volume_figures_are_json(agent: LyingAgent, tmp_path: Path) -> None:
    import json

    from kata.management.routes import Routes

    agent.lies["GetVolumeStats"] = lying.extremes
    with agent, running("box") as sandbox:
        sandbox.volume_stats = sandbox.agent.volume_stats  # type: ignore[method-assign, assignment]
        routes = Routes(sandbox, lambda: "")
        for _ in range(20):
            from kata.management.http import Request

            answer = routes.answer(Request("GET", "/direct-volume/stats", {"path": "/x"}, b""))
            assert answer.status == 200
            assert UNSAFE.search(json.dumps(json.loads(answer.body))) is None


@pytest.mark.parametrize("lie", lying.LIES, ids=lambda lie: lie.__name__)
def test_agent_ctl_ends_with_a_sentence(tmp_path: Path, capfd: pytest.CaptureFixture[str], lie: Lie) -> None:
    with bounds(seconds=10, mib=96), LyingAgent(tmp_path / "agent", {"*": lie}) as agent:
        for words in (
            ["StatsContainer", "container_id=box"],
            ["--json", "GetGuestDetails"],
            ["ListInterfaces"],
            ["GetMetrics"],
            ["ReadStdout", "container_id=box"],
        ):
            code = agent_ctl(["--server-address", agent.address, "-t", "0.1", *words])
            captured = capfd.readouterr()
            assert code in (0, 1)
            assert "Traceback" not in captured.err
            assert "fault" not in captured.err
            assert UNSAFE.search(captured.err) is None
            if "--json" in words:
                assert captured.out.isascii()
            elif words[0] in ("StatsContainer", "ListInterfaces"):
                assert UNSAFE.search(captured.out) is None
            assert code == 1 or captured.err == ""
            assert captured.err.count("\n") <= 2


def test_agent_ctl_on_a_terminal(tmp_path: Path) -> None:
    """Metrics and rules go out as they are, but not to a terminal."""

    def metrics(asked: lying.Asked) -> None:
        answer = asked.method.response()
        answer.metrics = ESCAPES.replace("\0", "")  # type: ignore[attr-defined]
        asked.reply(answer)

    with LyingAgent(tmp_path / "agent", {"GetMetrics": metrics}) as agent:
        argv = [sys.executable, "-I", "-m", "kata.agentctl", "--server-address", agent.address, "GetMetrics"]
        said = on_a_terminal(argv)
    assert "red" in said
    assert UNSAFE.search(said) is None


def on_a_terminal(argv: list[str]) -> str:
    """What a command writes to its terminal."""
    master, slave = pty.openpty()
    child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=slave, stderr=slave)
    os.close(slave)
    said = b""
    while select.select([master], [], [], 30)[0]:
        try:
            said += os.read(master, 65536)
        except OSError:
            break
    assert child.wait(10) == 0, said
    os.close(master)
    return said.decode("utf-8", "replace")


# Section: exec, stop


@pytest.fixture
def control(agent: LyingAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Control]:
    """`kata exec` and `kata stop` towards a sandbox with one container."""
    monkeypatch.setattr(supervisor, "SIGNAL_TIMEOUT", 0.3)
    monkeypatch.setattr(supervisor, "KILL_TIMEOUT", 0.3)
    with agent, running("box") as sandbox:
        container = sandbox.create_container(puppets.container_config("box"))
        service = ControlService(sandbox, container)
        container.start(lambda _: service.recorded.set())
        with Server({"kata.control.v1.Control": service}, to_status) as server:
            thread = threading.Thread(target=server.serve, args=(listen(f"unix://{tmp_path / SOCKET}"),), daemon=True)
            thread.start()
            with Control(tmp_path) as made:
                yield made
        thread.join(10)


@pytest.mark.parametrize("lie", lying.LIES, ids=lambda lie: lie.__name__)
def test_exec_and_stats_end_with_a_sentence(control: Control, agent: LyingAgent, lie: Lie) -> None:
    agent.lies |= {"*": lie, "WaitProcess": lying.honest}
    process = specs.process(specs.ProcessOptions(args=("true",)))
    calls: tuple[Callable[[], object], ...] = (
        lambda: control.exec("one", process, StdioPaths()),
        control.stats,
        lambda: control.agent_call("grpc.AgentService/GetGuestDetails", b"", 0.3),
    )
    begin = time.monotonic()
    for call in calls:
        try:
            call()
        except KataError as error:
            assert error.layer in ("guest", "container"), error
            assert (error.what + error.detail).isprintable()
        except RpcError as error:
            assert len(error.message) < 300_000
    assert time.monotonic() - begin < 10


@pytest.mark.parametrize(
    "lie", [lying.never, lying.honest, lying.fails_strangely, lying.garbage_payload], ids=lambda lie: lie.__name__
)
def test_a_guest_that_does_not_stop_is_ended_whole(control: Control, agent: LyingAgent, lie: Lie) -> None:
    agent.lies["SignalProcess"] = lie
    begin = time.monotonic()
    control.stop(15, 0.2)
    assert time.monotonic() - begin < 10
    assert Machine.made[-1].ended.is_set()


# Section: consoles


Behaviour = Callable[[socket.socket], object]


class HostileShell:
    """The far end of a debug console, which does `behave` until the client has gone."""

    def __init__(self, behave: Behaviour) -> None:
        ours, theirs = socket.socketpair()
        self.connection = SocketConnection(ours)
        self._thread = threading.Thread(target=self._run, args=(behave, theirs), daemon=True)
        self._thread.start()

    def _run(self, behave: Behaviour, theirs: socket.socket) -> None:
        with theirs:
            try:
                behave(theirs)
            except OSError:
                pass

    def close(self) -> None:
        self.connection.shutdown()
        self._thread.join(10)
        self.connection.close()
        assert not self._thread.is_alive()


def floods(data: bytes) -> Behaviour:
    def behave(peer: socket.socket) -> None:
        while True:
            peer.sendall(data)

    return behave


def echoes_what_is_typed(peer: socket.socket) -> None:
    """A terminal without a shell behind it."""
    while data := peer.recv(65536):
        peer.sendall(data)


def answers_the_greeting_only(peer: socket.socket) -> None:
    said = b""
    while data := peer.recv(65536):
        said += data
        if match := re.search(rb"echo '<(\w+)''(\w+)>'\r", said):
            peer.sendall(b"<" + match[1] + match[2] + b">\r\n")
            said = b""


@pytest.mark.parametrize(
    "behave",
    [
        *(floods(b"\x1b[2J" * 4096), floods(b"<" * 65536), floods(b"\r\n" * 32768)),
        *(echoes_what_is_typed, answers_the_greeting_only, lambda peer: peer.recv(1)),
    ],
    ids=["escapes", "marks", "lines", "echo", "greeting", "hangs up"],
)
def test_a_debug_console_that_lies(behave: Behaviour, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "ASK_AGAIN", 0.4)
    shell = HostileShell(behave)
    with bounds(seconds=20, mib=32), closing(shell), pytest.raises(GuestError):
        console.run(shell.connection, "true", io.BytesIO(), answer_timeout=1.0)


def test_a_debug_console_that_takes_no_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal in raw mode could not be left any more."""
    monkeypatch.setattr(console, "ANSWER_STALL", 0.3)
    over = threading.Event()
    shell = HostileShell(lambda peer: over.wait(20))
    reader, writer = os.pipe()
    typing = threading.Thread(target=lambda: os.write(writer, bytes(1 << 16) * 4), daemon=True)
    typing.start()
    null = os.open(os.devnull, os.O_WRONLY)
    with pytest.raises(GuestError, match="takes no input"):
        while True:
            console.relay(shell.connection, reader, null)
    over.set()
    os.close(reader)
    typing.join(10)
    for fd in (writer, null):
        os.close(fd)
    shell.close()


@pytest.mark.parametrize("seed", range(5))
def test_console_bytes_on_a_terminal_and_in_a_log(seed: int) -> None:
    """The guest's serial console, by its tail and by the log that follows it."""
    ours, guest = socket.socketpair()
    heard: list[str] = []
    reader = Console(ours)
    reader.follow(heard.append)
    source = random.Random(seed)
    for _ in range(40):
        piece = source.choice([ESCAPES.encode(), source.randbytes(500), b"\x1b[", b"\n", b"text", "\x9b1A".encode()])
        guest.sendall(piece)
    guest.sendall(b"\nend\n")
    guest.shutdown(socket.SHUT_WR)
    reader.finish(10)
    reader.close()
    guest.close()
    assert heard[-1] == "end"
    for line in (*heard, *reader.tail(100).split("\n")):
        assert UNSAFE.search(line) is None


def test_the_cleaning_of_a_console_takes_no_time() -> None:
    """Sequences that begin and never end."""
    begun = ("\x1b]", "\x1b[", "\x1b", "\x1b]a", "\x1b[0;")
    for text in (*(one * 30_000 for one in begun), *(one + fill * 60_000 for one in begun for fill in "0 a;")):
        with bounds(seconds=2.0, mib=16):
            clean_lines(text)
            Shown(io.BytesIO()).write(text.encode())


def test_errors_are_shown_without_what_steers_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    show(KataError(f"what{ESCAPES}", hint=f"hint{ESCAPES}", detail=f"one{ESCAPES}\ntwo\ttabs"))
    said = capsys.readouterr().err
    assert UNSAFE.search(said) is None
    assert said.startswith("kata: host: what")
    assert "two\ttabs" in said


def test_figures_of_a_container_that_is_silent_are_given_up(agent: LyingAgent) -> None:
    agent.lies["GetMetrics"] = lying.never
    with managed(agent) as sandbox, bounds(seconds=5, mib=16):
        text = figures.Metrics(sandbox, Durations(), Durations()).render()
        assert "the guest said nothing" in text
        assert "kata_shim_threads" in text

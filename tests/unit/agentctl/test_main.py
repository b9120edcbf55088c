"""The command line: options, upstream's form, exit codes; against a real server on a unix socket."""

from __future__ import annotations

import io
import os
import re
import select
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata.agentctl.__main__ import main, parse
from kata.agentctl.rpcs import all_methods
from kata.protocol.generated import agent_pb2, health_pb2
from kata.protocol.server import Call, Server
from kata.protocol.status import Code, RpcError
from kata.protocol.transport import listen


class Health:
    """Serves."""

    def check(self, request: health_pb2.CheckRequest, call: Call) -> health_pb2.HealthCheckResponse:
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)


class Agent:
    """Waits until nobody waits for it any more."""

    def wait_process(self, request: agent_pb2.WaitProcessRequest, call: Call) -> agent_pb2.WaitProcessResponse:
        call.cancelled.wait(10)
        return agent_pb2.WaitProcessResponse()


def to_status(error: BaseException) -> RpcError:
    return RpcError(Code.INTERNAL, str(error))


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    address = f"unix://{tmp_path}/agent.sock"
    with Server({"grpc.Health": Health(), "grpc.AgentService": Agent()}, to_status) as server:
        listener = listen(address)
        thread = threading.Thread(target=server.serve, args=(listener,), daemon=True)
        thread.start()
        yield address
    thread.join(10)


def test_one_request(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--server-address", address, "check"]) == 0
    assert main(["--server-address", address, "--json", "Check", "service=x"]) == 0
    assert capsys.readouterr().out == 'status: SERVING\n{"status": "SERVING"}\n'


def test_what_the_agent_refuses_is_exit_code_1(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--server-address", address, "Version"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("kata-agent-ctl: UNIMPLEMENTED: grpc.Health/Version")
    assert main(["--server-address", address, "--timeout", "0.05", "WaitProcess"]) == 1
    assert "DEADLINE_EXCEEDED" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ("connect", "--server-address", "ADDRESS", "-c", "Check", "--cmd", "Check", "--no-auto-values"),
        ("--server-address", "ADDRESS", "connect", "-c", "Check", "-c", "repeat 1 Check"),
        ("--server-address", "ADDRESS", "-c", "Check", "-c", "Check"),
    ],
)
def test_upstreams_form(address: str, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([address if word == "ADDRESS" else word for word in words]) == 0
    assert capsys.readouterr().out == "status: SERVING\n" * 2


def test_failures_of_commands(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    commands = ["-c", "Version", "-c", "Check"]
    assert main(["--server-address", address, *commands]) == 1
    assert capsys.readouterr().out == ""
    assert main(["--server-address", address, "--ignore-errors", *commands]) == 1
    captured = capsys.readouterr()
    assert (captured.out, "-c:1: UNIMPLEMENTED" in captured.err) == ("status: SERVING\n", True)


def test_a_pipe_and_scripts(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "echo one\nexpect UNIMPLEMENTED Version\nCheck\nquit\nVersion\n"
    (tmp_path / "script").write_text(text)
    assert main(["--server-address", address, "script", str(tmp_path / "script")]) == 0
    for words in (["script", "-"], ["--interactive"], ["connect", "-i"]):
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        assert main(["--server-address", address, *words]) == 0
    assert capsys.readouterr().out == "one\nstatus: SERVING\n" * 4


def test_debug_tells_requests_and_times(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--server-address", address, "-l", "debug", "Check", "service=me"]) == 0
    asked, took = capsys.readouterr().err.splitlines()
    assert asked == 'kata-agent-ctl: Check {"service": "me"}'
    assert took.startswith("kata-agent-ctl: Check: OK after ")


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        ([], 2, ""),
        (["Check"], 2, "which agent?"),
        (["--server-address", "unix:///nowhere/x", "Check"], 1, "no agent answers"),
        (["--server-address", "nonsense", "Check"], 2, "no address"),
        (["--server-address", "unix:///x", "connect"], 2, "connect needs commands"),
        (["--server-address", "unix:///x", "script"], 2, "needs one file"),
        (["--server-address", "unix:///x", "script", "/nowhere"], 2, "cannot be read"),
        (["--server-address", "unix:///x", "Chekc"], 2, "is it Check"),
        (["--sandbox", "none-of-that-name", "Check"], 1, "kata ps -a"),
        (["help", "Chekc"], 2, "is it Check"),
    ],
)
def test_one_clear_line(words: list[str], code: int, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == code
    captured = capsys.readouterr()
    assert text in captured.err
    assert "Traceback" not in captured.err
    assert not text or "hint:" in captured.err or "cannot be read" in captured.err


@pytest.mark.parametrize(
    "words",
    [
        ["--server-address", "unix:///x", "--sandbox", "y", "Check"],
        ["connect", "Check"],
        ["--timeout", "soon", "Check"],
        ["--timeout", "-1", "Check"],
        ["--no-such-option", "Check"],
    ],
)
def test_wrong_options(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(words)
    assert caught.value.code == 2
    assert "hint:" in capsys.readouterr().err


def test_what_needs_no_agent(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    listed = capsys.readouterr().out
    for method in all_methods():
        assert f"\n{method.name} " in f"\n{listed}".replace("\n", " \n") or f"{method.name}\n" in listed
        assert main(["help", method.name]) == 0
        assert f"({method.service}/{method.name})" in capsys.readouterr().out
    for words in (["examples"], ["help"], ["help", "script"]):
        assert main(words) == 0
        assert "repeat" in capsys.readouterr().out or words != ["help", "script"]
    assert main(["generate-cid"]) == 0
    assert len(capsys.readouterr().out) == 65


def test_a_prompt_completes_names_and_goes_on_after_errors(address: str) -> None:
    main_end, terminal = os.openpty()
    command = [sys.executable, "-I", "-m", "kata.agentctl", "--server-address", address, "-i"]
    environment = {"TERM": "dumb", "PATH": os.environ["PATH"], "INPUTRC": os.devnull}
    with subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, env=environment) as process:
        os.close(terminal)
        try:
            said = answer(main_end, b"kata-agent-ctl> ", b"Nothing\n")
            said += answer(main_end, b"kata-agent-ctl> ", b"Chec\t\n")
            # Typed before the next prompt, an end of file would get lost in the change to readline's terminal mode.
            said += answer(main_end, rb"SERVING.*kata-agent-ctl> ", b"\x04")
            assert process.wait(20) == 0
        finally:
            process.kill()
    os.close(main_end)
    assert b"there is no request 'Nothing'" in said


def answer(terminal: int, wanted: bytes, line: bytes) -> bytes:
    """Read until what the pattern `wanted` describes has come, then type `line`."""
    said = b""
    while not re.search(wanted, said, re.DOTALL):
        assert select.select([terminal], [], [], 20)[0], said
        said += os.read(terminal, 4096)
    os.write(terminal, line)
    return said

"""Replies as text: readable, with nothing in it that steers a terminal; and as JSON."""

from __future__ import annotations

import json
import os

import pytest

from kata.agentctl import output
from kata.agentctl.errors import ExpectationError, UsageError
from kata.protocol.generated import agent_pb2, health_pb2, types_pb2
from kata.protocol.status import Code, RpcError

INTERFACES = agent_pb2.Interfaces(
    Interfaces=[
        types_pb2.Interface(
            name="eth0", IPAddresses=[types_pb2.IPAddress(family=types_pb2.IPFamily.v6, address="::1", mask="128")]
        )
    ]
)


def test_for_people() -> None:
    assert list(output.lines(INTERFACES)) == [
        "Interfaces:",
        "  device:",
        "  name: eth0",
        "  IPAddresses:",
        "    family: v6",
        "    address: ::1",
        "    mask: 128",
        "  mtu: 0",
        "  hwAddr:",
        "  devicePath:",
        "  type:",
        "  raw_flags: 0",
    ]
    assert list(output.lines(agent_pb2.WaitProcessResponse())) == ["status: 0"]
    assert list(output.lines(health_pb2.HealthCheckResponse(status=1))) == ["status: SERVING"]  # type: ignore[arg-type]
    stats = agent_pb2.MemoryStats(stats={"b": 2, "a": 1})
    assert list(output.lines(stats)) == ["cache: 0", "use_hierarchy: false", "stats[a]: 1", "stats[b]: 2"]


def test_the_guest_cannot_steer_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "a\x1b[2J\x07\u202eb"
    assert next(output.lines(agent_pb2.AgentDetails(version=hostile))) == "version: a?[2J??b"
    output.failure(RpcError(Code.INTERNAL, hostile + "x" * 100_000))
    said = capsys.readouterr().err
    assert said.startswith("kata-agent-ctl: INTERNAL: a?[2J??bxxx")
    assert len(said) < output.ERROR_LIMIT + 100


def test_a_reply_of_bytes_is_written_as_it_is(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    output.reply(agent_pb2.ReadStreamResponse(data=b"\x00\xff\x1b[m\n"), as_json=False)
    assert capfdbinary.readouterr().out == b"\x00\xff\x1b[m\n"


def test_a_reply_of_bytes_is_made_safe_for_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.openpty()
    with open(writing, "w") as terminal:
        monkeypatch.setattr("sys.stdout", terminal)
        output.reply(agent_pb2.ReadStreamResponse(data=b"ok\xff\x1b[m\n"), as_json=False)
        monkeypatch.undo()
        assert os.read(reading, 100).decode() == "ok\ufffd?[m\r\n"
    os.close(reading)


def test_json_has_the_protos_names_and_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    output.reply(INTERFACES, as_json=True)
    [line] = capsys.readouterr().out.splitlines()
    [found] = json.loads(line)["Interfaces"]
    assert (found["hwAddr"], found["mtu"], found["IPAddresses"][0]["family"]) == ("", "0", "v6")


def test_exit_codes_and_hints(capsys: pytest.CaptureFixture[str]) -> None:
    assert output.failure(UsageError("w", hint="h"), "f:1: ") == 2
    assert output.failure(ExpectationError("w", detail="d")) == 1
    assert output.failure(RpcError(Code.DEADLINE_EXCEEDED, "w")) == 1
    assert capsys.readouterr().err.splitlines() == [
        "kata-agent-ctl: f:1: config: w",
        "  hint: h",
        "kata-agent-ctl: guest: w",
        "  d",
        "kata-agent-ctl: DEADLINE_EXCEEDED: w",
        "  hint: --timeout SECONDS gives it longer, --timeout 0 for ever",
    ]

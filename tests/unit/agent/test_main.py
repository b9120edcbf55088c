"""The agent's command line: started as a service with a file of settings, as another process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kata.protocol.client import Client
from kata.protocol.generated import agent_pb2, health_pb2
from kata.protocol.status import Code, RpcError
from kata.protocol.transport import dial

SRC = Path(__file__).parents[3] / "src"


def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "kata.agent", *arguments],
        env={**os.environ, "PYTHONPATH": str(SRC), **environment},
        stderr=subprocess.PIPE,
        text=True,
    )


def said_until(process: subprocess.Popen[str], text: str) -> str:
    """What the agent logs, up to a line with `text`."""
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if text in line:
            return said
    raise AssertionError(said)


@pytest.mark.timeout(60)
def test_a_file_decides_address_log_and_what_is_allowed(tmp_path: Path) -> None:
    address = f"unix://{tmp_path}/agent.sock"
    (tmp_path / "agent.toml").write_text(
        f'server_addr = "{address}"\nsurprise = 1\n[endpoints]\nallowed = ["GuestDetailsRequest"]\n'
    )
    process = start("-c", f"{tmp_path}/agent.toml")
    try:
        said = said_until(process, "serving")
        assert "an unknown setting is ignored" in said
        assert "setting=surprise" in said
        with Client(dial(address, 5.0)) as client:
            client.call("grpc.AgentService/GetGuestDetails", agent_pb2.GuestDetailsRequest(), timeout=5.0)
            client.call("grpc.Health/Check", health_pb2.CheckRequest(), timeout=5.0)
            with pytest.raises(RpcError, match="^.*GetMetricsRequest is blocked by policy$") as caught:  # noqa: RUF043
                client.call("grpc.AgentService/GetMetrics", agent_pb2.GetMetricsRequest(), timeout=5.0)
            assert caught.value.code == Code.PERMISSION_DENIED
    finally:
        process.terminate()
        process.communicate(timeout=20)
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("text", "environment", "said"),
    [
        ("log_vport = 'x'", {}, "log_vport"),
        ("", {}, "no address"),
        ("", {"KATA_AGENT_LOG_LEVEL": "loud"}, "KATA_AGENT_LOG_LEVEL"),
        ("server_addr = 'unix:///nowhere/a'\npolicy_file = '/no/policy'", {}, "the policy /no/policy cannot be used"),
    ],
)
@pytest.mark.timeout(60)
def test_what_cannot_be_is_said(tmp_path: Path, text: str, environment: dict[str, str], said: str) -> None:
    (tmp_path / "agent.toml").write_text(text)
    process = start("--config", f"{tmp_path}/agent.toml", **environment)
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, said in errors) == (1, True), errors

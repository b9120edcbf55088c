"""Requests that are passed on to the guest's agent: unharmed both ways, errors included, from the owner alone."""

from __future__ import annotations

import stat
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from kata.errors import KataError
from kata.protocol.client import Client
from kata.protocol.generated import agent_pb2
from kata.protocol.server import Call, Server
from kata.protocol.status import Code, RpcError
from kata.protocol.transport import dial, listen
from kata.sandbox.agent_client import AgentClient
from kata.sandbox.errors import (
    CommandNotFoundError,
    ConflictError,
    ContainerError,
    GuestError,
    NotFoundError,
    SandboxError,
)
from kata.supervisor.client import SOCKET, Control
from kata.supervisor.service import ControlService, to_status

if TYPE_CHECKING:
    from kata.sandbox.container import Container
    from kata.sandbox.sandbox import Sandbox


class Guest:
    """An agent's side: echoes, refuses, and waits."""

    def write_stdin(self, request: agent_pb2.WriteStreamRequest, call: Call) -> agent_pb2.WriteStreamResponse:
        return agent_pb2.WriteStreamResponse(len=len(request.data))

    def start_container(self, request: agent_pb2.StartContainerRequest, call: Call) -> agent_pb2.StartContainerRequest:
        raise RpcError(Code.ALREADY_EXISTS, f"no {request.container_id}")

    def wait_process(self, request: agent_pb2.WaitProcessRequest, call: Call) -> agent_pb2.WaitProcessResponse:
        assert call.deadline is not None
        call.cancelled.wait(10)
        return agent_pb2.WaitProcessResponse()


class Held:
    """What the service needs of a sandbox."""

    def __init__(self, agent: AgentClient | None) -> None:
        self._agent = agent

    @property
    def agent(self) -> AgentClient:
        if self._agent is None:
            raise ConflictError("sandbox x is not running")
        return self._agent


@contextmanager
def serving(address: str, name: str, service: object) -> Iterator[None]:
    with Server({name: service}, to_status) as server:
        listener = listen(address)
        thread = threading.Thread(target=server.serve, args=(listener,), daemon=True)
        thread.start()
        yield
    thread.join(10)


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Control]:
    with ExitStack() as stack:
        stack.enter_context(serving(f"unix://{tmp_path}/agent", "grpc.AgentService", Guest()))
        agent = AgentClient(Client(dial(f"unix://{tmp_path}/agent", 5.0)))
        stack.callback(agent.close)
        service = ControlService(cast("Sandbox", Held(agent)), cast("Container", None))
        stack.enter_context(serving(f"unix://{tmp_path / SOCKET}", "kata.control.v1.Control", service))
        yield stack.enter_context(Control(tmp_path))


def refused(code: Code) -> pytest.RaisesExc[RpcError]:
    return pytest.raises(RpcError, check=lambda error: error.code == code)


def test_there_and_back(control: Control) -> None:
    request = agent_pb2.WriteStreamRequest(container_id="x", data=b"\x00" * 3_000_000)
    answer = control.agent_call("grpc.AgentService/WriteStdin", request.SerializeToString(), 5.0)
    assert agent_pb2.WriteStreamResponse.FromString(answer).len == 3_000_000


def test_the_agents_errors_stay_what_they_are(control: Control) -> None:
    request = agent_pb2.StartContainerRequest(container_id="box").SerializeToString()
    with pytest.raises(RpcError, match="no box") as caught:
        control.agent_call("grpc.AgentService/StartContainer", request, 5.0)
    assert caught.value.code == Code.ALREADY_EXISTS
    with refused(Code.UNIMPLEMENTED):
        control.agent_call("grpc.AgentService/SetPolicy", b"", 5.0)


def test_the_agent_is_given_the_callers_time(control: Control) -> None:
    with refused(Code.DEADLINE_EXCEEDED):
        control.agent_call("grpc.AgentService/WaitProcess", b"", 0.1)


@pytest.mark.parametrize(
    ("name", "payload", "code"),
    [
        ("grpc.AgentService/Nothing", b"", Code.UNIMPLEMENTED),
        ("no.Service/Check", b"", Code.UNIMPLEMENTED),
        ("nothing", b"", Code.UNIMPLEMENTED),
        ("", b"", Code.UNIMPLEMENTED),
        ("grpc.AgentService/WriteStdin", b"\xff\xff", Code.INVALID_ARGUMENT),
    ],
)
def test_what_is_no_request_does_not_reach_the_agent(control: Control, name: str, payload: bytes, code: Code) -> None:
    with refused(code):
        control.agent_call(name, payload, 5.0)


@pytest.mark.parametrize(
    "error",
    [
        CommandNotFoundError("'x' is not in the image", hint="look around", detail="a console"),
        GuestError("no answer"),
        NotFoundError("none", hint="kata ps", layer="VMM"),
        KataError("plain", layer="VMM", detail="\udcff"),
    ],
)
def test_what_a_user_is_to_hear_comes_across(tmp_path: Path, error: KataError) -> None:
    class Fails:
        def signal(self, request: object, call: object) -> None:
            raise error

    with serving(f"unix://{tmp_path / SOCKET}", "kata.control.v1.Control", Fails()), Control(tmp_path) as control:
        with pytest.raises(SandboxError) as caught:
            control.signal(9)
        assert caught.value.what == error.what
        assert caught.value.hint == error.hint
        assert caught.value.detail in (error.detail, "\\udcff")
        assert caught.value.layer == error.layer
        assert isinstance(caught.value, type(error) if isinstance(error, SandboxError) else ContainerError)


def test_a_sandbox_that_ended_is_said(tmp_path: Path) -> None:
    service = ControlService(cast("Sandbox", Held(None)), cast("Container", None))
    with (
        serving(f"unix://{tmp_path / SOCKET}", "kata.control.v1.Control", service),
        Control(tmp_path) as control,
        pytest.raises(ConflictError, match="not running"),
    ):
        control.agent_call("grpc.Health/Check", b"", 5.0)


def test_only_the_owner_may_connect(control: Control, tmp_path: Path) -> None:
    """The socket's mode is the guard: connect(2) needs write permission on it (unix(7))."""
    assert stat.S_IMODE((tmp_path / SOCKET).stat().st_mode) == 0o600

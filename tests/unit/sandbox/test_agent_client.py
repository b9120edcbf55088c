"""What a guest is told first and in which order, and how long it may take for it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from google.protobuf.message import Message

from kata.protocol.generated import agent_pb2
from kata.protocol.messages import message
from kata.protocol.server import Call, Server
from kata.protocol.status import Code, RpcError
from kata.protocol.transport import listen
from kata.sandbox import guest
from kata.sandbox.agent_client import AgentClient
from kata.sandbox.config import GuestAssets, GuestOptions, Patience, SandboxConfig
from kata.sandbox.containerplan import ContainerPlan
from kata.sandbox.errors import GuestError

OPTIONS = GuestOptions(policy="package agent_policy", modules=(("one", "a=1", "b=2"), ("two",)), hook_path="/hooks")
CONFIG = SandboxConfig(
    id="box",
    hostname="name",
    assets=GuestAssets("/k", None, None),
    network="none",
    patience=Patience(create=0.4, request=0.2),
    guest=OPTIONS,
)


class Agent:
    """Notes what it is asked, and answers late on request."""

    def __init__(self) -> None:
        self.asked: list[Message] = []
        self.sleeps = threading.Event()

    def check(self, request: Message, call: Call) -> Message:
        raise RpcError(Code.UNIMPLEMENTED, "an answer is an answer")

    def set_policy(self, request: Message, call: Call) -> Message:
        return self._done(request)

    def create_sandbox(self, request: Message, call: Call) -> Message:
        return self._done(request)

    def create_container(self, request: Message, call: Call) -> Message:
        self.sleeps.wait(10)
        return self._done(request)

    def stats_container(self, request: Message, call: Call) -> Message:
        self.sleeps.wait(10)
        return agent_pb2.StatsContainerResponse()

    def wait_process(self, request: Message, call: Call) -> agent_pb2.WaitProcessResponse:
        self.sleeps.wait(1.0)
        return agent_pb2.WaitProcessResponse(status=3)

    def _done(self, request: Message) -> Message:
        self.asked.append(request)
        return message("google.protobuf.Empty")()


class Network:
    def __init__(self, agent: Agent) -> None:
        self.agent = agent

    def tell(self, client: AgentClient) -> None:
        self.agent.asked.append(agent_pb2.UpdateRoutesRequest())


@pytest.fixture
def agent() -> Agent:
    return Agent()


@pytest.fixture
def client(tmp_path: Path, agent: Agent) -> Iterator[AgentClient]:
    address = f"unix://{tmp_path}/agent"
    services = {"grpc.AgentService": agent, "grpc.Health": agent}
    with Server(services, lambda error: cast(RpcError, error)) as server:
        thread = threading.Thread(target=server.serve, args=(listen(address),), daemon=True)
        thread.start()
        made = AgentClient.connect(address, CONFIG.boot_timeout, threading.Event(), None, CONFIG.patience)
        yield made
        agent.sleeps.set()
        made.close()
    thread.join(10)


def test_what_a_guest_hears_first(client: AgentClient, agent: Agent) -> None:
    guest.prepare(client, CONFIG, lambda: Network(agent).tell(client))
    policy, _, made = agent.asked
    assert [type(entry).__name__ for entry in agent.asked] == [
        "SetPolicyRequest",
        "UpdateRoutesRequest",
        "CreateSandboxRequest",
    ]
    assert isinstance(policy, agent_pb2.SetPolicyRequest) and policy.policy == OPTIONS.policy
    assert isinstance(made, agent_pb2.CreateSandboxRequest) and made.guest_hook_path == "/hooks"
    modules = [(module.name, list(module.parameters)) for module in made.kernel_modules]
    assert modules == [("one", ["a=1", "b=2"]), ("two", [])]


def test_how_long_a_guest_may_take(client: AgentClient, agent: Agent) -> None:
    with pytest.raises(GuestError, match="StatsContainer"):
        client.stats("box")
    with pytest.raises(GuestError, match="CreateContainer"):
        client.create_container("box", ContainerPlan({}, []))
    assert client.ask_end("box", "box")() == 3  # a process may take its time
    agent.sleeps.set()
    client.stats("box")

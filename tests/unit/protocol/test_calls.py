"""Client against server over a socket pair: many at once, out of order, late, too long, and with a peer that dies."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from google.protobuf.message import Message

from kata.protocol import frame
from kata.protocol.client import Answer, Client, connect_agent
from kata.protocol.connection import Connection
from kata.protocol.generated import agent_pb2, health_pb2, ttrpc_pb2
from kata.protocol.messages import Method, message
from kata.protocol.server import Call, Server, snake_case
from kata.protocol.status import Code, RpcError
from kata.protocol.transport import dial, listen


class Agent:
    """A service whose answers are easy to check."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.cancelled = threading.Event()
        self.seen: list[Call] = []

    def wait_process(self, request: agent_pb2.WaitProcessRequest, call: Call) -> agent_pb2.WaitProcessResponse:
        self.seen.append(call)
        if request.exec_id == "blocks":
            self.gate.wait(30)
        if request.exec_id == "until gone":
            assert call.cancelled.wait(30)
            self.cancelled.set()
        return agent_pb2.WaitProcessResponse(status=int(request.container_id or 0))

    def read_stdout(self, request: agent_pb2.ReadStreamRequest, call: Call) -> agent_pb2.ReadStreamResponse:
        return agent_pb2.ReadStreamResponse(data=bytes(request.len))

    def create_container(self, request: agent_pb2.CreateContainerRequest, call: Call) -> object:
        raise ValueError("not \udcff today")


def to_status(error: BaseException) -> RpcError:
    return RpcError(Code.INVALID_ARGUMENT, str(error))


@pytest.fixture
def agent() -> Agent:
    return Agent()


@pytest.fixture
def pair(agent: Agent) -> Iterator[tuple[Client, Server]]:
    ours, theirs = socket.socketpair()
    server = Server({"grpc.AgentService": agent}, to_status)
    thread = threading.Thread(target=server.serve_connection, args=(Connection.from_fd(theirs.detach()),))
    thread.start()
    client = Client(Connection.from_fd(ours.detach()))
    yield client, server
    agent.gate.set()
    client.close()
    server.close()
    thread.join(10)
    assert not thread.is_alive()


def wait(client: Client, number: int, exec_id: str = "", timeout: float | None = 20.0) -> int:
    request = agent_pb2.WaitProcessRequest(container_id=str(number), exec_id=exec_id)
    response = client.call("grpc.AgentService/WaitProcess", request, timeout=timeout, metadata={"k": "v"})
    return cast(agent_pb2.WaitProcessResponse, response).status


def test_two_hundred_calls_at_once(pair: tuple[Client, Server]) -> None:
    client, _ = pair
    results: dict[int, int] = {}

    def one(number: int) -> None:
        results[number] = wait(client, number)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == {number: number for number in range(200)}


def test_calls_that_are_begun_are_answered_in_any_order(pair: tuple[Client, Server], agent: Agent) -> None:
    client, _ = pair
    method = "grpc.AgentService/WaitProcess"

    def begin(number: int, exec_id: str = "") -> Answer:
        return client.begin(method, agent_pb2.WaitProcessRequest(container_id=str(number), exec_id=exec_id))

    blocked, others = begin(1, "blocks"), [begin(number) for number in range(2, 20)]
    found = [cast(agent_pb2.WaitProcessResponse, other.result()).status for other in reversed(others)]
    assert found == list(range(19, 1, -1))
    agent.gate.set()
    assert cast(agent_pb2.WaitProcessResponse, blocked.result()).status == 1
    waiting = begin(1, "until gone")
    client.close()
    for lost in (waiting, begin(2)):
        with pytest.raises(RpcError) as caught:
            lost.result()
        assert caught.value.code == Code.UNAVAILABLE


def test_a_blocking_call_blocks_nobody(pair: tuple[Client, Server], agent: Agent) -> None:
    client, _ = pair
    result: list[int] = []
    thread = threading.Thread(target=lambda: result.append(wait(client, 1, "blocks", None)))
    thread.start()
    assert [wait(client, number) for number in range(2, 20)] == list(range(2, 20))
    assert result == []
    agent.gate.set()
    thread.join(10)
    assert result == [1]


def test_deadlines_on_both_sides(pair: tuple[Client, Server], agent: Agent) -> None:
    client, _ = pair
    with pytest.raises(RpcError) as caught:
        wait(client, 1, "blocks", 0.1)
    assert caught.value.code == Code.DEADLINE_EXCEEDED
    deadline = agent.seen[0].deadline
    assert deadline is not None
    assert deadline <= time.monotonic() + 0.1
    assert agent.seen[0].metadata == {"k": "v"}
    assert wait(client, 2) == 2  # the late answer to the first call confuses nobody


def test_what_is_not_there(pair: tuple[Client, Server]) -> None:
    client, _ = pair
    for name, request in (("Check", health_pb2.CheckRequest()),):
        with pytest.raises(RpcError) as caught:
            client.call(f"grpc.Health/{name}", request, timeout=5)
        assert caught.value.code == Code.UNIMPLEMENTED
    with pytest.raises(RpcError) as caught:
        client.call("grpc.AgentService/StartContainer", agent_pb2.StartContainerRequest(), timeout=5)
    assert caught.value.code == Code.UNIMPLEMENTED


def test_a_refused_call_never_reaches_its_handler(agent: Agent) -> None:
    asked = []

    def authorize(method: Method, request: Message, call: Call) -> None:
        asked.append((method.name, method.request.DESCRIPTOR.name, call.method))
        if method.name == "WaitProcess":
            raise RpcError(Code.PERMISSION_DENIED, "not this one")

    ours, theirs = socket.socketpair()
    with Server({"grpc.AgentService": agent}, to_status, authorize=authorize) as server:
        served = (Connection.from_fd(theirs.detach()),)
        threading.Thread(target=server.serve_connection, args=served, daemon=True).start()
        with Client(Connection.from_fd(ours.detach())) as client:
            with pytest.raises(RpcError, match="not this one") as caught:
                wait(client, 7)
            assert caught.value.code == Code.PERMISSION_DENIED
            reply = client.call("grpc.AgentService/ReadStdout", agent_pb2.ReadStreamRequest(len=3), timeout=5.0)
            assert cast("agent_pb2.ReadStreamResponse", reply).data == bytes(3)
    assert agent.seen == []
    assert asked == [
        ("WaitProcess", "WaitProcessRequest", "grpc.AgentService/WaitProcess"),
        ("ReadStdout", "ReadStreamRequest", "grpc.AgentService/ReadStdout"),
    ]


def test_a_failing_handler_is_told_by_the_servers_own_mapping(pair: tuple[Client, Server]) -> None:
    client, _ = pair
    with pytest.raises(RpcError) as caught:
        client.call("grpc.AgentService/CreateContainer", agent_pb2.CreateContainerRequest(), timeout=5)
    assert (caught.value.code, caught.value.message) == (Code.INVALID_ARGUMENT, "not \\udcff today")


def test_too_long_both_ways(pair: tuple[Client, Server]) -> None:
    client, _ = pair
    request = agent_pb2.WriteStreamRequest(data=bytes(frame.MAX_PAYLOAD))
    with pytest.raises(RpcError) as caught:
        client.call("grpc.AgentService/WriteStdin", request, timeout=5)
    assert caught.value.code == Code.RESOURCE_EXHAUSTED
    with pytest.raises(RpcError) as caught:
        client.call("grpc.AgentService/ReadStdout", agent_pb2.ReadStreamRequest(len=frame.MAX_PAYLOAD), timeout=20)
    assert caught.value.code == Code.RESOURCE_EXHAUSTED
    response = client.call("grpc.AgentService/ReadStdout", agent_pb2.ReadStreamRequest(len=4_000_000), timeout=20)
    assert len(cast(agent_pb2.ReadStreamResponse, response).data) == 4_000_000


def test_a_dead_server_fails_calls_at_once(pair: tuple[Client, Server]) -> None:
    client, server = pair
    failures: list[Code] = []

    def one() -> None:
        try:
            wait(client, 1, "blocks", None)
        except RpcError as error:
            failures.append(error.code)

    thread = threading.Thread(target=one)
    thread.start()
    assert wait(client, 7) == 7
    server.close()
    thread.join(10)
    assert failures == [Code.UNAVAILABLE]
    assert client.closed
    with pytest.raises(RpcError):
        wait(client, 1)


def test_a_dead_client_is_told_to_handlers(pair: tuple[Client, Server], agent: Agent) -> None:
    client, _ = pair
    request = agent_pb2.WaitProcessRequest(exec_id="until gone")

    def one() -> None:
        with pytest.raises(RpcError):
            client.call("grpc.AgentService/WaitProcess", request)

    thread = threading.Thread(target=one)
    thread.start()
    assert wait(client, 3) == 3
    client.close()
    assert agent.cancelled.wait(10)
    thread.join(10)


def raw_session(agent: Agent, sent: bytes) -> list[tuple[int, int, bytes]]:
    """What a server answers to raw bytes, as (stream, code, payload)."""
    ours, theirs = socket.socketpair()
    server = Server({"grpc.AgentService": agent}, to_status)
    thread = threading.Thread(target=server.serve_connection, args=(Connection.from_fd(theirs.detach()),))
    thread.start()
    answers: list[tuple[int, int, bytes]] = []
    with ours:
        ours.settimeout(10)
        ours.sendall(sent)
        decoder = frame.Decoder()
        while not answers:
            for received in decoder.feed(ours.recv(65536)):
                response = ttrpc_pb2.Response.FromString(received.payload or b"")
                answers.append((received.stream, response.status.code, response.payload))
    thread.join(10)
    server.close()
    return answers


def envelope(stream: int, kind: int = frame.REQUEST) -> bytes:
    request = ttrpc_pb2.Request(
        service="grpc.AgentService",
        method="WaitProcess",
        payload=agent_pb2.WaitProcessRequest(container_id="5").SerializeToString(),
    )
    return frame.encode(stream, kind, 0, request.SerializeToString())


@pytest.mark.parametrize(
    ("sent", "stream", "code"),
    [
        (envelope(1), 1, Code.OK),
        (envelope(2), 2, Code.INVALID_ARGUMENT),
        (frame.encode(9, frame.DATA, frame.REMOTE_CLOSED | frame.NO_DATA, b"") + envelope(3), 3, Code.OK),
        (frame.encode(9, 77, 255, b"what is this") + envelope(3), 3, Code.OK),
        (frame.encode(1, frame.REQUEST, 0, b"\xff\xff\xff"), 1, Code.INVALID_ARGUMENT),
        (struct.pack(">IIBB", frame.MAX_PAYLOAD + 1, 5, 1, 0), 5, Code.RESOURCE_EXHAUSTED),
    ],
)
def test_odd_frames(agent: Agent, sent: bytes, stream: int, code: Code) -> None:
    [(answered, status, _)] = raw_session(agent, sent)
    assert (answered, status) == (stream, code)


def test_an_oversized_request_is_skipped_to_the_byte(agent: Agent) -> None:
    length = frame.MAX_PAYLOAD + 10
    ours, theirs = socket.socketpair()
    server = Server({"grpc.AgentService": agent}, to_status)
    thread = threading.Thread(target=server.serve_connection, args=(Connection.from_fd(theirs.detach()),))
    thread.start()
    codes: dict[int, int] = {}
    with ours:
        ours.settimeout(20)
        ours.sendall(struct.pack(">IIBB", length, 1, 1, 0) + bytes(length) + envelope(3))
        decoder = frame.Decoder()
        while len(codes) < 2:
            for received in decoder.feed(ours.recv(65536)):
                codes[received.stream] = ttrpc_pb2.Response.FromString(received.payload or b"").status.code
    thread.join(10)
    server.close()
    assert codes == {1: Code.RESOURCE_EXHAUSTED, 3: Code.OK}


def test_a_listener_serves_and_leaves_no_thread_or_descriptor(tmp_path: Path, agent: Agent) -> None:
    message("grpc.WaitProcessRequest")
    threads, fds = threading.active_count(), len(os.listdir("/proc/self/fd"))
    address = f"unix://{tmp_path}/s"
    with Server({"grpc.AgentService": agent}, to_status) as server:
        accepting = threading.Thread(target=server.serve, args=(listen(address),))
        accepting.start()
        for number in range(5):
            with Client(dial(address, 5)) as client:
                assert wait(client, number) == number
    accepting.join(10)
    deadline = time.monotonic() + 10
    while (threading.active_count(), len(os.listdir("/proc/self/fd"))) != (threads, fds):
        assert time.monotonic() < deadline, (threading.enumerate(), os.listdir("/proc/self/fd"))
        time.sleep(0.05)
    assert not (tmp_path / "s").exists()


def test_connecting_to_a_guest_that_is_still_booting() -> None:
    ours, theirs = socket.socketpair()
    client: list[Client] = []
    thread = threading.Thread(
        target=lambda: client.append(connect_agent(lambda: Connection.from_fd(ours.detach()), 20))
    )
    thread.start()
    first = theirs.recv(65536)  # swallowed, as a port that nobody has opened does
    second = theirs.recv(65536)
    assert len(first) > 0
    [asked] = frame.Decoder().feed(second)
    theirs.sendall(frame.encode(asked.stream, frame.RESPONSE, 0, ttrpc_pb2.Response().SerializeToString()))
    thread.join(20)
    client[0].close()
    theirs.close()


def test_a_guest_that_died_is_not_waited_for() -> None:
    gone = threading.Event()
    gone.set()
    ours, theirs = socket.socketpair()
    with pytest.raises(RpcError) as caught:
        connect_agent(lambda: Connection.from_fd(ours.detach()), 60, gone)
    assert caught.value.code == Code.UNAVAILABLE
    ours.close()
    theirs.close()


@pytest.mark.parametrize(
    ("name", "snake"),
    [
        ("CreateContainer", "create_container"),
        ("AddARPNeighbors", "add_arp_neighbors"),
        ("GetOOMEvent", "get_oom_event"),
        ("OnlineCPUMem", "online_cpu_mem"),
        ("GetIPTables", "get_ip_tables"),
    ],
)
def test_names_of_handlers(name: str, snake: str) -> None:
    assert snake_case(name) == snake

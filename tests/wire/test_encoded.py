"""Answers made without protobuf: the same bytes as protobuf's, at every length where a varint grows."""

from __future__ import annotations

import socket
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.protocol import frame
from kata.protocol.channel import LONG
from kata.protocol.connection import Connection
from kata.protocol.encoded import Encoded, varint, with_bytes
from kata.protocol.generated import agent_pb2, ttrpc_pb2
from kata.protocol.server import Call, Server
from kata.protocol.status import Code, RpcError

EDGES = [0, 1, 127, 128, LONG - 1, LONG, LONG + 1, (1 << 14) - 1, 1 << 14, (1 << 21) - 1, 1 << 21, (4 << 20) - 10]
LIMIT = frame.MAX_PAYLOAD - 10
"""Data above which two fields' headers of five bytes make a payload too long."""


class Agent:
    """Answers as many bytes as are asked for."""

    def read_stdout(self, request: agent_pb2.ReadStreamRequest, call: Call) -> Encoded:
        return with_bytes(
            agent_pb2.ReadStreamResponse, agent_pb2.ReadStreamResponse.DATA_FIELD_NUMBER, made(request.len)
        )

    def read_stderr(self, request: agent_pb2.ReadStreamRequest, call: Call) -> Encoded:
        return with_bytes(agent_pb2.WriteStreamResponse, 1, b"of another kind")


def made(size: int) -> bytes:
    return (b"0123456789abcdef" * (size // 16 + 1))[:size]


def to_status(error: BaseException) -> RpcError:
    return RpcError(Code.INTERNAL, str(error))


def answered(method: str, size: int) -> bytes:
    """The bytes with which a server answers."""
    payload = agent_pb2.ReadStreamRequest(len=size).SerializeToString()
    request = ttrpc_pb2.Request(service="grpc.AgentService", method=method, payload=payload).SerializeToString()
    ours, theirs = socket.socketpair()
    with ours, Server({"grpc.AgentService": Agent()}, to_status) as server:
        thread = threading.Thread(target=server.serve_connection, args=(Connection.from_fd(theirs.detach()),))
        thread.start()
        ours.settimeout(30)
        ours.sendall(frame.encode(1, frame.REQUEST, 0, request))
        with ours.makefile("rb") as stream:
            said = stream.read(frame.HEADER.size)
            said += stream.read(frame.HEADER.unpack(said)[0])
        ours.close()
        thread.join(30)
    return said


def by_protobuf(data: bytes) -> bytes:
    payload = agent_pb2.ReadStreamResponse(data=data).SerializeToString()
    return frame.encode(1, frame.RESPONSE, 0, ttrpc_pb2.Response(payload=payload).SerializeToString())


@pytest.mark.parametrize("size", EDGES)
def test_an_answer_in_pieces_has_the_bytes_of_protobuf(size: int) -> None:
    assert answered("ReadStdout", size) == by_protobuf(made(size))


@given(st.integers(0, LIMIT))
def test_a_message_in_pieces_has_the_bytes_of_protobuf(size: int) -> None:
    data = made(size)
    _, head, tail = with_bytes(agent_pb2.ReadStreamResponse, 1, data)
    assert head + tail == agent_pb2.ReadStreamResponse(data=data).SerializeToString()
    assert tail is data


@given(st.integers(0, (1 << 64) - 1))
def test_varints_are_those_of_protobuf(value: int) -> None:
    expected = agent_pb2.MemHotplugByProbeRequest(memHotplugProbeAddr=[value]).SerializeToString()
    assert varint(value) == expected[2:]


def test_an_answer_above_the_limit_is_refused() -> None:
    response = ttrpc_pb2.Response.FromString(answered("ReadStdout", frame.MAX_PAYLOAD)[frame.HEADER.size :])
    assert response.status.code == Code.RESOURCE_EXHAUSTED


def test_an_answer_of_another_kind_is_a_fault_of_the_server() -> None:
    response = ttrpc_pb2.Response.FromString(answered("ReadStderr", 1)[frame.HEADER.size :])
    assert response.status.code == Code.INTERNAL
    assert "WriteStreamResponse" in response.status.message

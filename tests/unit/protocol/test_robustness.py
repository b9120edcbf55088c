"""What a peer may do to us: read nothing, send anything, come in crowds, go at any moment."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kata.protocol import frame, server
from kata.protocol.client import Client, connect_agent
from kata.protocol.connection import Connection, SocketConnection, Stalled
from kata.protocol.deadlines import Deadlines
from kata.protocol.generated import agent_pb2, health_pb2, ttrpc_pb2
from kata.protocol.server import Call, Server
from kata.protocol.status import Code, RpcError
from kata.protocol.workers import Workers

CHECK = health_pb2.CheckRequest()


def to_status(error: BaseException) -> RpcError:
    return RpcError(Code.INTERNAL, repr(error))


class Health:
    """Answers when `gate` is open."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)

    def check(self, request: health_pb2.CheckRequest, call: Call) -> health_pb2.HealthCheckResponse:
        self.entered.release()
        self.gate.wait(30)
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)

    def version(self, request: health_pb2.CheckRequest, call: Call) -> object:
        if request.service == "exit":
            raise SystemExit(3)
        return agent_pb2.Metrics()  # not what Version returns


class Peer:
    """A server on one end of a socket pair, and the raw other end."""

    def __init__(self, service: Health, mapping: Callable[[BaseException], RpcError] = to_status) -> None:
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(20)
        self.server = Server({"grpc.Health": service}, mapping)
        connection = Connection.from_fd(theirs.detach())
        self.thread = threading.Thread(target=self.server.serve_connection, args=(connection,))
        self.thread.start()
        self._decoder = frame.Decoder()
        self._frames: list[frame.Frame] = []

    def send(self, stream: int, method: str = "Check", flags: int = 0, service: str = "", nanoseconds: int = 0) -> None:
        request = ttrpc_pb2.Request(
            service="grpc.Health",
            method=method,
            payload=health_pb2.CheckRequest(service=service).SerializeToString(),
            timeout_nano=nanoseconds,
        )
        self.socket.sendall(frame.encode(stream, frame.REQUEST, flags, request.SerializeToString()))

    def receive(self) -> tuple[int, ttrpc_pb2.Response]:
        while not self._frames:
            data = self.socket.recv(65536)
            assert data, "the server ended the connection"
            self._frames += self._decoder.feed(data)
        got = self._frames.pop(0)
        return got.stream, ttrpc_pb2.Response.FromString(got.payload or b"")

    def code(self) -> tuple[int, int]:
        stream, response = self.receive()
        return stream, response.status.code

    def close(self) -> None:
        self.socket.close()
        self.thread.join(20)
        assert not self.thread.is_alive()
        self.server.close()


@pytest.fixture
def health() -> Health:
    return Health()


@pytest.fixture
def peer(health: Health) -> Iterator[Peer]:
    made = Peer(health)
    yield made
    health.gate.set()
    made.close()


def test_the_server_itself_answers_when_a_deadline_passes(peer: Peer, health: Health) -> None:
    health.gate.clear()
    start = time.monotonic()
    peer.send(1, nanoseconds=100_000_000)
    peer.send(3, nanoseconds=50_000_000)
    assert peer.code() == (3, Code.DEADLINE_EXCEEDED)
    assert peer.code() == (1, Code.DEADLINE_EXCEEDED)
    assert 0.1 <= time.monotonic() - start < 10
    health.gate.set()
    peer.send(5)
    assert peer.code() == (5, Code.OK)  # and nothing more came for 1 and 3


@pytest.mark.parametrize("nanoseconds", [-1, -(1 << 63), (1 << 63) - 1])
def test_deadlines_of_no_sense_are_none(peer: Peer, nanoseconds: int) -> None:
    peer.send(1, nanoseconds=nanoseconds)
    assert peer.code() == (1, Code.OK)


def test_stream_ids_rise_and_wrap_around(peer: Peer) -> None:
    for stream, code in [
        (1, Code.OK),
        (1, Code.INVALID_ARGUMENT),
        (7, Code.OK),
        (5, Code.INVALID_ARGUMENT),
        ((1 << 31) - 1, Code.OK),
        ((1 << 32) - 3, Code.OK),
        ((1 << 32) - 1, Code.OK),
        (1, Code.OK),
        ((1 << 32) - 1, Code.INVALID_ARGUMENT),
    ]:
        peer.send(stream)
        assert peer.code() == (stream, code)


def test_streaming_calls_are_refused_and_half_streaming_ones_served(peer: Peer) -> None:
    peer.send(1, flags=frame.REMOTE_OPEN)
    assert peer.code() == (1, Code.UNIMPLEMENTED)
    peer.send(3, flags=frame.REMOTE_CLOSED)
    assert peer.code() == (3, Code.OK)


def test_whatever_a_handler_does_its_caller_is_answered(peer: Peer) -> None:
    peer.send(1, "Version", service="exit")
    stream, response = peer.receive()
    assert (stream, response.status.code, response.status.message) == (1, Code.INTERNAL, "SystemExit(3)")
    peer.send(3, "Version")
    stream, response = peer.receive()
    assert (stream, response.status.code) == (3, Code.INTERNAL)
    assert "gave Metrics" in response.status.message


def test_a_mapping_that_fails_still_gives_an_answer(health: Health) -> None:
    def broken(error: BaseException) -> RpcError:
        raise KeyError("no mapping")

    peer = Peer(health, broken)
    peer.send(1, "Version", service="exit")
    assert peer.code() == (1, Code.INTERNAL)
    peer.close()


def test_a_crowd_is_served_up_to_the_limit(peer: Peer, health: Health, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_CALLS", 5)
    health.gate.clear()
    for stream in range(1, 15, 2):
        peer.send(stream)
    assert {peer.code(), peer.code()} == {(11, Code.RESOURCE_EXHAUSTED), (13, Code.RESOURCE_EXHAUSTED)}
    health.gate.set()
    assert sorted(peer.code() for _ in range(5)) == [(stream, Code.OK) for stream in (1, 3, 5, 7, 9)]


def test_a_closing_server_lets_handlers_answer_and_takes_nothing_new(peer: Peer, health: Health) -> None:
    health.gate.clear()
    peer.send(1)
    assert health.entered.acquire(timeout=10)
    closing = threading.Thread(target=peer.server.close, args=(20.0,))
    closing.start()
    deadline = time.monotonic() + 10
    stream = 3
    while True:
        peer.send(stream)
        if peer.code() == (stream, Code.UNAVAILABLE):
            break
        assert time.monotonic() < deadline
        stream += 2
    health.gate.set()
    assert peer.code() == (1, Code.OK)
    closing.join(20)
    assert peer.socket.recv(10) == b""


def test_a_peer_that_never_reads_loses_its_connection_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "STALL_TIMEOUT", 0.3)
    peer = Peer(Health())
    error = None
    stream = 1
    # Every request is refused with an answer, by the reader itself, until no more answers fit.
    try:
        while True:
            peer.send(stream, "Nonsense")
            stream += 2
    except OSError as caught:
        error = caught
    assert error is not None
    peer.thread.join(20)
    assert not peer.thread.is_alive()
    peer.close()


ODD_FRAMES = st.lists(
    st.builds(
        frame.encode,
        st.sampled_from([1, 2, 3, 5, 7]),
        st.sampled_from([1, 1, 1, 2, 3, 9]),
        st.integers(0, 7),
        st.binary(max_size=60),
    ),
    max_size=10,
)


@settings(max_examples=60, deadline=None)
@given(ODD_FRAMES, st.binary(max_size=200))
def test_no_bytes_bring_a_server_down(frames: list[bytes], rest: bytes) -> None:
    peer = Peer(Health())
    peer.socket.sendall(b"".join(frames))
    peer.send(1001)
    while peer.receive()[0] != 1001:
        pass
    peer.socket.sendall(rest)
    peer.close()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=10))
def test_no_bytes_bring_a_client_down(pieces: list[bytes]) -> None:
    """A hostile guest: garbage for an answer is an error of that call, garbage elsewhere is dropped."""
    ours, theirs = socket.socketpair()
    with theirs, Client(Connection.from_fd(ours.detach())) as client:
        for piece in pieces:
            theirs.sendall(frame.encode(99, 3, 1, piece) + frame.encode(1, 9, 255, piece))
        theirs.sendall(frame.encode(4, frame.RESPONSE, 0, b"\xff"))
        answer = frame.encode(1, frame.RESPONSE, 0, b"\xff" + b"".join(pieces))

        def respond() -> None:
            theirs.recv(65536)
            theirs.sendall(answer)

        thread = threading.Thread(target=respond)
        thread.start()
        with pytest.raises(RpcError) as caught:
            client.call("grpc.Health/Check", CHECK, timeout=20)
        thread.join(20)
        assert caught.value.code is Code.INTERNAL
        assert not client.closed


def test_a_call_that_the_peer_ends_without_an_answer_fails() -> None:
    ours, theirs = socket.socketpair()
    with theirs, Client(Connection.from_fd(ours.detach())) as client:

        def end() -> None:
            theirs.recv(65536)
            theirs.sendall(frame.encode(1, frame.DATA, frame.REMOTE_CLOSED | frame.NO_DATA, b""))

        thread = threading.Thread(target=end)
        thread.start()
        with pytest.raises(RpcError, match="without an answer"):
            client.call("grpc.Health/Check", CHECK, timeout=20)
        thread.join(20)


def test_a_peer_that_does_not_read_costs_the_deadline_and_then_the_connection() -> None:
    ours, theirs = socket.socketpair()
    with theirs, Client(Connection.from_fd(ours.detach())) as client:
        big = agent_pb2.WriteStreamRequest(data=bytes(4_000_000))
        with pytest.raises(RpcError) as caught:
            client.call("grpc.AgentService/WriteStdin", big, timeout=0.2)
        assert caught.value.code is Code.DEADLINE_EXCEEDED
        with pytest.raises(RpcError) as caught:  # half a frame is out: no other can follow it
            client.call("grpc.Health/Check", CHECK, timeout=5)
        assert caught.value.code is Code.UNAVAILABLE


def test_a_deadline_before_the_first_byte_leaves_the_connection_usable() -> None:
    ours, theirs = socket.socketpair()
    filler, sent = ours.dup(), 0
    filler.setblocking(False)
    try:
        while True:
            sent += filler.send(bytes(1000))
    except BlockingIOError:
        pass
    with theirs, filler, Client(Connection.from_fd(ours.detach())) as client:
        with pytest.raises(RpcError) as caught:
            client.call("grpc.Health/Check", CHECK, timeout=0.1)
        assert caught.value.code is Code.DEADLINE_EXCEEDED
        assert not client.closed
        while sent:
            sent -= len(theirs.recv(min(sent, 65536)))

        def answer() -> None:
            [asked] = frame.Decoder().feed(theirs.recv(65536))
            theirs.sendall(frame.encode(asked.stream, frame.RESPONSE, 0, b""))

        thread = threading.Thread(target=answer)
        thread.start()
        client.call("grpc.Health/Check", CHECK, timeout=20)
        thread.join(20)


def test_a_slow_but_steady_reader_is_not_given_up() -> None:
    ours, theirs = socket.socketpair()
    data = bytes(2_000_000)
    taken: list[int] = []

    def read_slowly() -> None:
        while piece := theirs.recv(100_000):
            taken.append(len(piece))
            time.sleep(0.02)

    thread = threading.Thread(target=read_slowly)
    thread.start()
    with theirs:
        with SocketConnection(ours) as connection:
            connection.write(data, None, 0.3)
        thread.join(30)
    assert sum(taken) == len(data)


def test_a_stalled_write_says_how_far_it_came() -> None:
    ours, theirs = socket.socketpair()
    with theirs, SocketConnection(ours) as connection:
        with pytest.raises(Stalled) as caught:
            connection.write(bytes(4_000_000), None, 0.05)
        assert 0 < caught.value.sent < 4_000_000
        with pytest.raises(Stalled) as caught:
            connection.write(b"x", time.monotonic() + 0.05)
        assert caught.value.sent == 0


def test_requests_reach_the_peer_in_the_order_of_their_ids() -> None:
    ours, theirs = socket.socketpair()
    with theirs, Client(Connection.from_fd(ours.detach())) as client:

        def call() -> None:
            with pytest.raises(RpcError):
                client.call("grpc.Health/Check", CHECK, timeout=20)

        threads = [threading.Thread(target=call) for _ in range(100)]
        for thread in threads:
            thread.start()
        decoder, ids = frame.Decoder(), list[int]()
        while len(ids) < 100:
            ids += [one.stream for one in decoder.feed(theirs.recv(65536))]
        assert ids == list(range(1, 201, 2))
        client.close()
        for thread in threads:
            thread.join(20)


def test_a_request_of_the_wrong_type_is_a_mistake_of_the_caller() -> None:
    ours, theirs = socket.socketpair()
    with theirs, Client(Connection.from_fd(ours.detach())) as client:
        with pytest.raises(TypeError, match="takes CheckRequest, not Metrics"):
            client.call("grpc.Health/Check", agent_pb2.Metrics())
        with pytest.raises(KeyError):
            client.call("grpc.Health/Nonsense", CHECK)


def test_a_guest_is_dialled_again_until_it_answers() -> None:
    health = Health()
    peers: list[Peer] = []
    attempts: list[int] = []

    def dial() -> Connection:
        attempts.append(1)
        if len(attempts) == 1:
            raise ConnectionRefusedError
        ours, theirs = socket.socketpair()
        if len(attempts) == 2:
            theirs.close()  # a VMM that hangs up since nobody listens yet
            return Connection.from_fd(ours.detach())
        ours.close()
        theirs.close()
        peers.append(Peer(health))
        return Connection.from_fd(peers[0].socket.detach())

    with connect_agent(dial, 20) as client:
        client.call("grpc.Health/Check", CHECK, timeout=20)
    assert len(attempts) == 3
    peers[0].close()


def test_a_guest_that_never_comes_costs_the_timeout() -> None:
    def refuse() -> Connection:
        raise ConnectionRefusedError("nobody")

    start = time.monotonic()
    with pytest.raises(RpcError, match="nobody") as caught:
        connect_agent(refuse, 0.3)
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    assert time.monotonic() - start < 5
    ours, theirs = socket.socketpair()
    with theirs, pytest.raises(RpcError, match="no answer") as caught:
        connect_agent(lambda: Connection.from_fd(ours.detach()), 0.3)
    assert caught.value.code is Code.DEADLINE_EXCEEDED


def test_an_agent_without_a_health_service_is_there_too() -> None:
    ours, theirs = socket.socketpair()
    with Server({}, to_status) as bare:
        connection = Connection.from_fd(theirs.detach())
        thread = threading.Thread(target=bare.serve_connection, args=(connection,))
        thread.start()
        connect_agent(lambda: Connection.from_fd(ours.detach()), 20).close()
        thread.join(20)


def test_idle_threads_are_used_again() -> None:
    workers = Workers()
    seen: set[int] = set()
    for _ in range(50):
        done = threading.Event()

        def task(done: threading.Event = done) -> None:
            seen.add(threading.get_ident())
            done.set()

        workers.run(task)
        assert done.wait(10)
        time.sleep(0.001)
    assert len(seen) < 10
    assert workers.close(10)
    with pytest.raises(RuntimeError):
        workers.run(lambda: None)


def test_idle_threads_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kata.protocol.workers.IDLE_TIMEOUT", 0.02)
    before = threading.active_count()
    workers = Workers()
    workers.run(lambda: None)
    deadline = time.monotonic() + 10
    while threading.active_count() > before:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    workers.run(lambda: None)
    assert workers.close(10)


def test_deadlines_pass_in_their_order_and_removed_ones_not_at_all() -> None:
    class Timed:
        def __init__(self, seconds: float) -> None:
            self.deadline: float | None = time.monotonic() + seconds

    late, early, removed, never = Timed(0.2), Timed(0.05), Timed(0.1), Timed(3600)
    seen: list[object] = []
    both = threading.Event()

    def expire(call: object) -> None:
        seen.append(call)
        if len(seen) == 2:
            both.set()

    deadlines = Deadlines(expire)
    for call in (late, never, early, removed):
        deadlines.add(call)
    deadlines.remove(removed)
    assert both.wait(10)
    assert seen == [early, late]
    deadlines.close()

"""Calls over one connection: any number at once, each with its deadline, answered in any order.

Used by the host towards the guest's agent, and by anyone who speaks ttrpc. Never add knowledge of a service here,
but for `connect_agent`, which has to ask something to know that a peer is there.

One thread reads; whoever calls waits on a lock of its own for the frame that ends its stream. What a peer sends is
believed in nothing: answers to no call, late ones, and unknown kinds of frames are dropped.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from kata.protocol.answers import longest, read_answer
from kata.protocol.channel import Channel, seconds_until
from kata.protocol.frame import DATA, MAX_PAYLOAD, REMOTE_CLOSED, REQUEST, RESPONSE
from kata.protocol.generated import health_pb2, ttrpc_pb2
from kata.protocol.messages import Method, method
from kata.protocol.status import Code, RpcError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from google.protobuf.message import Message

    from kata.protocol.connection import Connection
    from kata.protocol.frame import Frame

STREAM_LIMIT = 1 << 32

FIRST_ANSWER, SLOWEST_ANSWER = 0.1, 0.5
"""Seconds that one question to a booting guest waits for its answer; it grows from the first to the second."""
FIRST_PAUSE, LONGEST_PAUSE = 0.01, 0.25
"""Seconds between attempts to connect to a guest that nobody answers for yet."""


class Pending:
    """A call under way. `done` is held until it ended; `frame` stays None when something else ended it first."""

    __slots__ = ("cancelled", "done", "frame")

    def __init__(self) -> None:
        self.frame: Frame | None = None
        self.cancelled = False
        # A bare lock: half the cost of an Event, and there is only ever one who waits.
        self.done = threading.Lock()
        self.done.acquire()


class Answer:
    """The response that a call of `Client.begin` will have. For one thread, to be asked for once."""

    __slots__ = ("_client", "_deadline", "_described", "_limit", "_name", "error", "pending", "stream")

    def __init__(self, client: Client, described: Method, name: str, deadline: float | None, limit: int) -> None:
        self._client = client
        self._described = described
        self._name = name
        self._deadline = deadline
        self._limit = limit
        self.pending = Pending()
        self.stream = 0
        self.error: RpcError | None = None
        """Why the request could not be sent."""

    def result(self) -> Message:
        """Wait for the response. Raises RpcError as `Client.call` does."""
        if self.error is not None:
            raise self.error
        if not self.pending.done.acquire(timeout=seconds_until(self._deadline)):
            self._client.forget(self.stream)
            raise RpcError(Code.DEADLINE_EXCEEDED, f"{self._name}: no answer in time")
        if self.pending.frame is None:
            if self.pending.cancelled:
                raise RpcError(Code.CANCELLED, f"{self._name}: nobody wants the answer any more")
            raise RpcError(Code.UNAVAILABLE, f"{self._name}: the connection ended")
        return read_answer(self._name, self._described, self.pending.frame, self._limit)

    def cancel(self) -> None:
        """Want no response any more, from any thread: `result` raises CANCELLED, unless it is there already.

        The peer is not told (ttrpc has no way to): what it answers is dropped.
        """
        pending = self._client.forget(self.stream)
        if pending is not None:
            pending.cancelled = True
            pending.done.release()


class Client:
    """The calling side of one connection, which it owns. Thread-safe; a context manager.

    What a peer that is not `trusted` answers is not read when that would take much more memory than it has bytes.
    """

    def __init__(self, connection: Connection, *, trusted: bool = True) -> None:
        self._channel = Channel(connection)
        self._trusted = trusted
        self._opening = threading.Lock()
        self._lock = threading.Lock()
        self._pending: dict[int, Pending] = {}
        self._next = 1  # a client's streams are odd and rise
        self._closed = False
        self._reader = threading.Thread(target=self._read, name="ttrpc-client", daemon=True)
        self._reader.start()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether the connection has ended, by either side."""
        return self._closed

    def call(
        self,
        name: str,
        request: Message,
        *,
        timeout: float | None = 60.0,
        metadata: Mapping[str, str] | None = None,
    ) -> Message:
        """Make the call `service/Method` and return its response.

        `timeout` is in seconds, None waits for ever; the peer is told it too. Raises RpcError: what the peer says,
        UNAVAILABLE when the connection is lost, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED for a request above 4 MiB, and
        NonsenseError for an answer that is too long or makes no sense. KeyError for a method that no
        .proto file describes.
        """
        return self.begin(name, request, timeout=timeout, metadata=metadata).result()

    def begin(
        self,
        name: str,
        request: Message,
        *,
        timeout: float | None = 60.0,
        metadata: Mapping[str, str] | None = None,
    ) -> Answer:
        """As `call`, but without waiting for the response: `Answer.result` does, and raises all that `call` raises."""
        deadline = None if timeout is None else time.monotonic() + timeout
        service, _, rpc = name.partition("/")
        described = method(service, rpc)
        if not isinstance(request, described.request):
            raise TypeError(f"{name} takes {described.request.__name__}, not {type(request).__name__}")
        answer = Answer(self, described, name, deadline, MAX_PAYLOAD if self._trusted else longest(described))
        try:
            data = _envelope(described, request, timeout, metadata)
            answer.stream = self._open(name, answer.pending, data, deadline)
        except RpcError as error:
            answer.error = error
        return answer

    def forget(self, stream: int) -> Pending | None:
        """Nobody waits for the response on `stream` any more; the call, if it had none yet."""
        with self._lock:
            return self._pending.pop(stream, None)

    def close(self) -> None:
        """End the connection; calls under way fail with UNAVAILABLE. Harmless when repeated."""
        self._channel.shutdown()
        if threading.current_thread() is not self._reader:
            self._reader.join()

    def _open(self, name: str, pending: Pending, data: bytes, deadline: float | None) -> int:
        """Send the request on a stream of its own; the stream's id.

        Ids have to reach the peer in rising order, so choosing one and sending it are one step for all threads.
        """
        if not self._opening.acquire(timeout=seconds_until(deadline)):
            raise RpcError(
                Code.DEADLINE_EXCEEDED, f"{name}: the peer does not read, earlier calls are still being sent"
            )
        stream = self._next
        try:
            self._register(stream, pending)
            self._next = (stream + 2) % STREAM_LIMIT
            self._channel.send(stream, REQUEST, 0, data, deadline=deadline)
        except OSError as error:
            with self._lock:
                self._pending.pop(stream, None)
            code = Code.DEADLINE_EXCEEDED if isinstance(error, TimeoutError) else Code.UNAVAILABLE
            raise RpcError(code, f"{name}: {error.strerror or error}") from error
        finally:
            self._opening.release()
        return stream

    def _register(self, stream: int, pending: Pending) -> None:
        with self._lock:
            if self._closed:
                raise RpcError(Code.UNAVAILABLE, "the connection is closed")
            self._pending[stream] = pending

    def _read(self) -> None:
        try:
            self._channel.receive(self._handle)
        finally:
            with self._lock:
                self._closed = True
                waiting, self._pending = self._pending, {}
            for pending in waiting.values():
                pending.done.release()

    def _handle(self, frame: Frame) -> None:
        """Take what ends a stream: a response, or data that says there is no more (wrong for a call like ours)."""
        if frame.kind == RESPONSE or (frame.kind == DATA and frame.flags & REMOTE_CLOSED):
            with self._lock:
                pending = self._pending.pop(frame.stream, None)
            if pending is not None:
                pending.frame = frame
                pending.done.release()


def connect_agent(dial: Callable[[], Connection], timeout: float, cancelled: threading.Event | None = None) -> Client:
    """Connect, and ask Health.Check until it is answered; at most `timeout` seconds.

    For peers that are still booting, and are not trusted. A connection proves nothing: a VMM takes it long before there
    is a far end, and then keeps what is sent, drops it, or hangs up. So the question is sent again, as a whole request
    of its own, until one is answered, and the connection is made anew where it breaks. Late answers to earlier ones are
    dropped.
    Raises RpcError: DEADLINE_EXCEEDED, or UNAVAILABLE soon after `cancelled` is set, which says that the peer is gone.
    """
    deadline = time.monotonic() + timeout
    cancelled = cancelled or threading.Event()
    pause, reason = FIRST_PAUSE, ""
    while True:
        try:
            return _checked(Client(dial(), trusted=False), deadline, cancelled)
        except RpcError as error:
            if error.code != Code.UNAVAILABLE or cancelled.is_set():
                raise
            reason = error.message
        except OSError as error:
            reason = str(error)
        # Nothing tells when somebody starts to listen at the other end of a VMM, so there is only waiting a bit.
        if time.monotonic() + pause >= deadline:
            raise RpcError(Code.DEADLINE_EXCEEDED, f"no answer within {timeout:.0f} s: {reason}")
        if cancelled.wait(pause):
            raise RpcError(Code.UNAVAILABLE, "the peer ended")
        pause = min(pause * 2, LONGEST_PAUSE)


def _checked(client: Client, deadline: float, cancelled: threading.Event) -> Client:
    """`client` once it is answered. Closes it and raises RpcError otherwise."""
    patience, asked = FIRST_ANSWER, time.monotonic()
    try:
        while not _healthy(client, min(patience, deadline - asked)):
            # A peer can say by itself that time was up, and would be asked without end: it gets its whole time.
            if cancelled.wait(max(0.0, asked + patience - time.monotonic())):
                raise RpcError(Code.UNAVAILABLE, "the peer ended")
            asked = time.monotonic()
            if asked >= deadline:
                raise RpcError(Code.DEADLINE_EXCEEDED, "connected, but no answer: nothing serves there, or it hangs")
            patience = min(patience * 1.5, SLOWEST_ANSWER)
    except BaseException:
        client.close()
        raise
    return client


def _healthy(client: Client, timeout: float) -> bool:
    """Whether the peer answered. One without a health service answers too."""
    try:
        client.call("grpc.Health/Check", health_pb2.CheckRequest(), timeout=timeout)
    except RpcError as error:
        if error.code == Code.DEADLINE_EXCEEDED:
            return False
        if error.code == Code.UNIMPLEMENTED:
            return True
        raise
    return True


def _envelope(described: Method, request: Message, timeout: float | None, metadata: Mapping[str, str] | None) -> bytes:
    data = ttrpc_pb2.Request(
        service=described.service,
        method=described.name,
        payload=request.SerializeToString(),
        timeout_nano=0 if timeout is None else max(1, int(timeout * 1e9)),
        metadata=[ttrpc_pb2.KeyValue(key=key, value=value) for key, value in (metadata or {}).items()],
    ).SerializeToString()
    if len(data) > MAX_PAYLOAD:
        raise RpcError(
            Code.RESOURCE_EXHAUSTED, f"{described.name}: the request has {len(data)} bytes, 4 MiB are the limit"
        )
    return data

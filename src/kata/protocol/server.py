"""The serving side of ttrpc: unary calls, each in a thread of its own, any number at once.

Called by the agent and by each process that answers calls. Never add knowledge of a service here.

Per connection one thread reads frames and gives requests to workers; it never runs a handler, so a call that waits
for hours keeps nobody else waiting. A peer that does not read its answers loses its connection, not the server.
"""

from __future__ import annotations

import errno
import threading
import time
from typing import TYPE_CHECKING, TypeVar, cast

from kata.protocol import status
from kata.protocol.channel import Channel
from kata.protocol.deadlines import Deadlines
from kata.protocol.encoded import Encoded, bytes_header
from kata.protocol.frame import MAX_PAYLOAD, REMOTE_OPEN, REQUEST, RESPONSE
from kata.protocol.messages import Method, message
from kata.protocol.messages import method as find_method
from kata.protocol.status import Code, RpcError
from kata.protocol.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from google.protobuf.message import Message

    from kata.protocol.connection import Connection
    from kata.protocol.frame import Frame
    from kata.protocol.generated import ttrpc_pb2
    from kata.protocol.transport import Listener

    Handler = Callable[[Message, "Call"], Message | Encoded]
    Authorize = Callable[[Method, Message, "Call"], None]

MessageT = TypeVar("MessageT", bound="Message")

MAX_CALLS = 1024
"""Calls that one connection may have under way; each holds a thread."""
STALL_TIMEOUT = 60.0
"""Seconds without one byte taken after which a peer that is owed an answer is given up."""
SHORTAGE_PAUSE = 0.1
SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
"""What accept(2) says when the system is short of something: it is tried again after a pause of so many seconds."""
DRAIN_TIMEOUT = 2.0
"""Seconds that `close` leaves to calls under way."""


class Call:
    """What a handler may know of the call it serves."""

    __slots__ = ("_cancelled", "deadline", "metadata", "method", "session", "stream")

    def __init__(self, session: Session, stream: int, request: ttrpc_pb2.Request) -> None:
        self.session = session
        self._cancelled: threading.Event | None = None
        self.stream = stream
        self.method = f"{request.service}/{request.method}"
        self.deadline: float | None = None
        """When the caller gives up, a value of time.monotonic(); None for never."""
        if request.timeout_nano > 0:
            self.deadline = time.monotonic() + request.timeout_nano / 1e9
        self.metadata: dict[str, str] = {pair.key: pair.value for pair in request.metadata}
        """What the caller sent along; the last value of each key."""

    @property
    def cancelled(self) -> threading.Event:
        """Set once nobody waits for the answer: the peer is gone, its deadline passed, the server closes."""
        # Made on demand: an Event costs as much as all the rest of a call, and most handlers never look.
        with self.session.lock:
            if self._cancelled is None:
                self._cancelled = threading.Event()
                if not self.session.waits_for(self):
                    self._cancelled.set()
            return self._cancelled

    def cancel(self) -> None:
        """Tell the handler. The session's lock is held."""
        if self._cancelled is not None:
            self._cancelled.set()


class Session:
    """One connection: its calls under way, by stream id. Whoever takes a call out of `calls` answers it."""

    def __init__(self, server: Server, connection: Connection) -> None:
        self._server = server
        self._channel = Channel(connection, STALL_TIMEOUT)
        self.lock = threading.Lock()
        self._calls: dict[int, Call] = {}
        self._ending = False
        self._last_stream = 0
        self.gone = False
        """Whether the peer is; an answer would not be heard."""

    def run(self) -> None:
        """Serve until the peer is gone or `shutdown` is called."""
        try:
            self._channel.receive(self._handle)
        finally:
            with self.lock:
                self.gone = True
                calls, self._calls = self._calls, {}
                for call in calls.values():
                    call.cancel()
            for call in calls.values():
                self._server.deadlines.remove(call)

    def shutdown(self) -> None:
        """End the connection; `run` returns soon after."""
        self._channel.shutdown()

    def cancel_all(self) -> None:
        """The server closes: take no more calls, tell all handlers; what they answer is still sent."""
        with self.lock:
            self._ending = True
            for call in self._calls.values():
                call.cancel()

    def waits_for(self, call: Call) -> bool:
        """Whether the peer still waits for the call's answer. The lock is held."""
        return not self._ending and self._calls.get(call.stream) is call

    def answer(self, call: Call, response: Encoded | RpcError) -> None:
        """Send a call's answer, unless it was answered already or its peer is gone."""
        with self.lock:
            if self._calls.get(call.stream) is not call:
                return
            del self._calls[call.stream]
            call.cancel()
        self._respond(call.stream, response)

    def _handle(self, frame: Frame) -> None:
        """One frame, in the reader's thread. Data frames and unknown kinds belong to streams that we never open."""
        if frame.kind != REQUEST:
            return
        try:
            call, task = self._enter(frame)
        except RpcError as error:
            self._respond(frame.stream, error)
            return
        if call.deadline is not None:
            self._server.deadlines.add(call)
        try:
            self._server.workers.run(task)
        except RuntimeError as error:
            self.answer(call, RpcError(Code.RESOURCE_EXHAUSTED, f"no thread for the call: {error}"))

    def _enter(self, frame: Frame) -> tuple[Call, Callable[[], None]]:
        """Enter a request among the calls; the call and what a worker has to run. Raises RpcError for a bad one."""
        self._check_stream(frame.stream)
        if frame.payload is None:
            raise RpcError(Code.RESOURCE_EXHAUSTED, f"the request is above {MAX_PAYLOAD} bytes")
        if frame.flags & REMOTE_OPEN:
            raise RpcError(Code.UNIMPLEMENTED, "streaming calls are not served")
        request = _parse(cast("type[ttrpc_pb2.Request]", message("ttrpc.Request")), frame.payload)
        call = Call(self, frame.stream, request)
        with self.lock:
            if self._ending:
                raise RpcError(Code.UNAVAILABLE, "the server is closing")
            if len(self._calls) >= MAX_CALLS:
                raise RpcError(Code.RESOURCE_EXHAUSTED, f"{MAX_CALLS} calls are under way already")
            self._calls[frame.stream] = call
        return call, lambda: self._serve(call, request)

    def _check_stream(self, stream: int) -> None:
        if stream % 2 == 0:
            raise RpcError(Code.INVALID_ARGUMENT, f"stream {stream}: a client's streams have odd ids")
        # Ids of a connection that lives for months wrap around, so "higher" means "ahead by less than half the range".
        ahead = (stream - self._last_stream) % (1 << 32)
        if not 0 < ahead < 1 << 31:
            raise RpcError(Code.INVALID_ARGUMENT, f"stream {stream}: ids must rise, {self._last_stream} was the last")
        self._last_stream = stream

    def _serve(self, call: Call, request: ttrpc_pb2.Request) -> None:
        """Run a call's handler and send what it says. In a worker's thread; never raises."""
        response: Encoded | RpcError
        try:
            response = self._server.dispatch(request, call)
        except RpcError as error:
            response = error
        except BaseException as error:  # noqa: BLE001 - whatever a handler does, its caller must get an answer
            response = self._server.explain(error)
        if call.deadline is not None:
            self._server.deadlines.remove(call)
        self.answer(call, response)

    def _respond(self, stream: int, response: Encoded | RpcError) -> None:
        """Send one response frame; a peer that cannot be reached loses its connection."""
        payload, tail = _envelope(response)
        if (length := len(payload) + len(tail)) > MAX_PAYLOAD:
            text = f"the answer has {length} bytes, {MAX_PAYLOAD} are the limit"
            payload, tail = _envelope(RpcError(Code.RESOURCE_EXHAUSTED, text))
        try:
            self._channel.send(stream, RESPONSE, 0, payload, tail)
        except OSError:
            self._channel.shutdown()


class Server:
    """Serves `services` (full service name to an object with a method for each RPC, in snake_case).

    A handler gets the request and a `Call`, and returns the response: a message, or its bytes (`Encoded`), which are
    sent by the thread that ran it. What it raises goes to the caller: an RpcError as it is, anything else as what
    `to_status` makes of it. `authorize` is asked before any handler runs, and refuses a call by raising. `left` is
    called when the last connection has ended. A context manager; thread-safe.
    """

    def __init__(
        self,
        services: Mapping[str, object],
        to_status: Callable[[BaseException], RpcError],
        *,
        authorize: Authorize | None = None,
        left: Callable[[], None] = lambda: None,
    ) -> None:
        self._services = dict(services)
        self._left = left
        self._to_status = to_status
        self._authorize = authorize
        self._handlers: dict[tuple[str, str], tuple[Method, Handler]] = {}
        self.workers = Workers()
        self.deadlines = Deadlines(self._expire)
        self._changed = threading.Condition()
        self._listeners: list[Listener] = []
        self.sessions: set[Session] = set()
        self._closed = False

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def serve(self, listener: Listener) -> None:
        """Accept and serve connections until `close`; owns the listener from now on. Raises OSError when it breaks."""
        with self._changed:
            if self._closed:
                listener.close()
                return
            self._listeners.append(listener)
        try:
            while not self._closed:
                if connection := self._accept(listener):
                    threading.Thread(
                        target=self.serve_connection, args=(connection,), name="ttrpc-server", daemon=True
                    ).start()
        except OSError:
            if not self._closed:
                raise
        finally:
            listener.close()

    def serve_connection(self, connection: Connection) -> None:
        """Serve one connection, which the server owns from now on, until its peer or `close` ends it."""
        session = Session(self, connection)
        with self._changed:
            if self._closed:
                session.shutdown()
            self.sessions.add(session)
        try:
            session.run()
        finally:
            with self._changed:
                self.sessions.discard(session)
                self._changed.notify_all()
                alone = not self.sessions
            if alone:
                self._left()

    def close(self, drain: float = DRAIN_TIMEOUT) -> None:
        """Accept nothing more, tell handlers to stop, leave them `drain` seconds to answer, end all connections.

        May be called from a handler, which then is not waited for, and more than once.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            sessions, listeners = list(self.sessions), list(self._listeners)
        for listener in listeners:
            listener.close()
        for session in sessions:
            session.cancel_all()
        self.workers.close(drain)
        for session in sessions:
            session.shutdown()
        self.deadlines.close()
        with self._changed:
            self._changed.wait_for(lambda: not self.sessions, drain)

    def dispatch(self, request: ttrpc_pb2.Request, call: Call) -> Encoded:
        """Run the handler of a request; its response's bytes. Raises RpcError, and whatever the handler raises."""
        method, handler = self._find(request.service, request.method)
        message = _parse(method.request, request.payload)
        if self._authorize is not None:
            self._authorize(method, message, call)
        response = handler(message, call)
        kind = response.kind if isinstance(response, Encoded) else type(response)
        if not issubclass(kind, method.response):
            raise RpcError(Code.INTERNAL, f"{call.method} gave {kind.__name__}: a fault of the server")
        if isinstance(response, Encoded):
            return response
        return Encoded(kind, response.SerializeToString(), b"")

    def explain(self, error: BaseException) -> RpcError:
        """What a caller is told of a handler's exception."""
        try:
            return self._to_status(error)
        except Exception:  # noqa: BLE001 - a fault in the mapping must not leave the caller without an answer
            return RpcError(Code.INTERNAL, "the server failed, and failed to say why")

    def _accept(self, listener: Listener) -> Connection | None:
        try:
            return listener.accept()
        except OSError as error:
            if error.errno not in SHORTAGES:
                raise
        with self._changed:
            self._changed.wait_for(lambda: self._closed, SHORTAGE_PAUSE)
        return None

    def _find(self, service: str, name: str) -> tuple[Method, Handler]:
        try:
            return self._handlers[service, name]
        except KeyError:
            pass
        if service not in self._services:
            raise RpcError(Code.UNIMPLEMENTED, f"service {service} is not served here")
        try:
            method = find_method(service, name)
        except KeyError:
            raise RpcError(Code.UNIMPLEMENTED, f"service {service} has no method {name}") from None
        handler = getattr(self._services[service], snake_case(name), None)
        if handler is None:
            raise RpcError(Code.UNIMPLEMENTED, f"{service}/{name} is not implemented")
        self._handlers[service, name] = method, handler
        return method, handler

    def _expire(self, call: object) -> None:
        """A call's deadline passed. Sending may take long, which must not keep other deadlines waiting."""
        assert isinstance(call, Call)
        error = RpcError(Code.DEADLINE_EXCEEDED, f"{call.method} was not done in time")
        try:
            self.workers.run(lambda: call.session.answer(call, error))
        except RuntimeError:
            call.session.answer(call, error)


def snake_case(name: str) -> str:
    """The handler's name for an RPC: `GetOOMEvent` is `get_oom_event`, `AddARPNeighbors` is `add_arp_neighbors`."""
    words = []
    for position, char in enumerate(name):
        after = name[position + 1 : position + 2]
        if position and char.isupper() and (not name[position - 1].isupper() or after.islower()):
            words.append("_")
        words.append(char.lower())
    return "".join(words)


def _envelope(response: Encoded | RpcError) -> tuple[bytes, bytes | memoryview]:
    """A response frame's payload: its beginning, and the end that is sent as it is."""
    kind = cast("type[ttrpc_pb2.Response]", message("ttrpc.Response"))
    if isinstance(response, RpcError):
        return kind(status=status.to_message(response)).SerializeToString(), b""
    length = len(response.head) + len(response.tail)
    return bytes_header(kind.PAYLOAD_FIELD_NUMBER, length) + response.head, response.tail


def _parse(kind: type[MessageT], payload: bytes) -> MessageT:
    from google.protobuf.message import DecodeError

    try:
        return kind.FromString(payload)
    except DecodeError:
        raise RpcError(Code.INVALID_ARGUMENT, f"the payload is no {kind.__name__}") from None

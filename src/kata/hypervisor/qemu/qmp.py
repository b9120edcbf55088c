"""A synchronous client of the QEMU Machine Protocol: commands, events, and descriptors passed along.

One thread reads; any thread may send. Commands carry an id and may overlap. The peer is a QEMU that a guest
may have taken over, so what it says is checked, bounded in size, and never trusted to come at all: every wait
has a deadline. No QMP command is named here but the one of the handshake; callers say what they want.
Specification: docs/interop/qmp-spec.txt of QEMU.
"""

from __future__ import annotations

import itertools
import json
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import NoReturn

import msgspec

from kata.hypervisor.errors import (
    QmpClosedError,
    QmpCommandError,
    QmpError,
    QmpProtocolError,
    QmpTimeoutError,
)
from kata.plain import plain

MESSAGE_MAX, EVENT_MAX = 1 << 20, 16 << 10
"""Bytes of one message; what they are read into has thirty times as many. The largest answer of QEMU 7.2,
query-qmp-schema, has 0.2 MB; events have a few hundred bytes, and many of them are kept."""
EVENTS_KEPT = 256
TEXT_MAX = 2000
"""Characters of QEMU's own words that are passed on."""
MAX_FDS = 16  # more than QEMU takes with one message (chardev/char-socket.c: TCP_MAX_FDS)


class Event(msgspec.Struct, frozen=True):
    """Something that QEMU reports by itself. `seconds` is its own wall clock, 0.0 when it gave none."""

    name: str
    data: Mapping[str, object]
    seconds: float


class _Call:
    """A command on its way: filled in by the reader, under the client's condition."""

    __slots__ = ("answer", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.answer: dict[str, object] | None = None


class QmpClient:
    """Owns `connection`, a connected stream socket to a QMP monitor. Call `negotiate` first."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(None)
        self._connection = connection
        self._send_lock = threading.Lock()
        self._changed = threading.Condition()
        self._calls: dict[int, _Call] = {}
        self._events: deque[Event] = deque(maxlen=EVENTS_KEPT)
        self._callbacks: list[Callable[[Event], None]] = []
        self._greeting: dict[str, object] | None = None
        self._failure: QmpError | None = None
        self._ids = itertools.count(1)
        self._reader = threading.Thread(target=self._read, name="qmp", daemon=True)
        self._reader.start()

    def __enter__(self) -> QmpClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """True once nothing can be sent any more, whoever closed the connection."""
        with self._changed:
            return self._failure is not None

    def negotiate(self, timeout: float) -> Mapping[str, object]:
        """Wait for the greeting, leave negotiation mode, and return the greeting's `QMP` object."""
        deadline = time.monotonic() + timeout
        with self._changed:
            self._wait(lambda: self._greeting is not None, deadline, "QEMU's greeting did not come")
            greeting = dict(self._greeting or {})
        self.execute("qmp_capabilities", timeout=max(0.0, deadline - time.monotonic()))
        return greeting

    def execute(
        self,
        command: str,
        arguments: Mapping[str, object] | None = None,
        *,
        fds: Sequence[int] = (),
        timeout: float = 10.0,
    ) -> object:
        """Run `command` and give back its `return` value. `fds` go along (getfd, add-fd) and stay the caller's.

        Raises QmpCommandError when QEMU refuses it, QmpTimeoutError after `timeout` seconds (the command may
        still run then), QmpClosedError and QmpProtocolError when the connection ended.
        """
        if len(fds) > MAX_FDS:
            raise QmpProtocolError(f"QMP takes {MAX_FDS} descriptors with one command at most")
        number, call = next(self._ids), _Call(command)
        message: dict[str, object] = {"execute": command, "id": number}
        if arguments:
            message["arguments"] = arguments
        deadline = time.monotonic() + timeout
        with self._changed:
            self._calls[number] = call
        try:
            self._send(json.dumps(message).encode() + b"\n", fds, deadline)
            with self._changed:
                self._wait(lambda: call.answer is not None, deadline, f"QEMU did not answer {command}")
        finally:
            with self._changed:
                del self._calls[number]
        return _result(command, call.answer or {})

    def on_event(self, callback: Callable[[Event], None]) -> None:
        """Have `callback` called for every event from now on, on the reading thread: it must not block or execute."""
        with self._changed:
            self._callbacks.append(callback)

    def wait_event(self, *names: str, timeout: float, accept: Callable[[Event], bool] = lambda _event: True) -> Event:
        """Take the oldest kept event with one of `names` that `accept`s, waiting up to `timeout` seconds for one."""
        deadline = time.monotonic() + timeout
        found: list[Event] = []

        def take() -> bool:
            for event in self._events:
                if event.name in names and accept(event):
                    found.append(event)
                    self._events.remove(event)
                    return True
            return False

        with self._changed:
            self._wait(take, deadline, f"QEMU did not report {' or '.join(names)}")
        return found[0]

    def close(self) -> None:
        """End the connection. Waiting callers get QmpClosedError."""
        self._fail(QmpClosedError("the connection to QEMU was closed"))
        if threading.current_thread() is not self._reader:
            self._reader.join(5.0)
            self._connection.close()

    def _wait(self, ready: Callable[[], bool], deadline: float, what: str) -> None:
        # Called with the condition held. `ready` before `failure`: an answer may have come just before the end.
        while not ready():
            if self._failure is not None:
                raise self._failure
            left = deadline - time.monotonic()
            if left <= 0:
                raise QmpTimeoutError(f"{what} in time", hint="look at the load of the host, then try again")
            self._changed.wait(left)

    def _send(self, message: bytes, fds: Sequence[int], deadline: float) -> None:
        # The lock is shared by all senders, so a peer that reads nothing must not hold it past a deadline.
        if not self._send_lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise QmpTimeoutError("QEMU reads no more commands")
        try:
            view = memoryview(message)
            first = True
            while view:
                sent = self._send_part(view, fds if first else (), deadline)
                view, first = view[sent:], False
        except OSError as error:
            gone = QmpClosedError("the connection to QEMU is gone")
            self._fail(gone)
            raise self._failure or gone from error  # the first failure says more than the last
        finally:
            self._send_lock.release()

    def _send_part(self, view: memoryview, fds: Sequence[int], deadline: float) -> int:
        import select  # built in; only senders that find a full socket need it

        while True:
            try:
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, _pack_fds(fds))] if fds else []
                return self._connection.sendmsg([view], rights, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except BlockingIOError:
                poll = select.poll()
                poll.register(self._connection, select.POLLOUT)
                if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                    # Half a message may be out: nothing sent after it could be understood.
                    self._fail(QmpClosedError("QEMU reads no more commands"))
                    raise QmpTimeoutError("QEMU reads no more commands") from None

    def _read(self) -> None:
        buffer = bytearray()
        try:
            while chunk := self._connection.recv(65536):
                start = len(buffer)
                buffer += chunk
                while (end := buffer.find(b"\n", start)) >= 0:
                    self._dispatch(bytes(buffer[:end]))
                    del buffer[: end + 1]
                    start = 0
                if len(buffer) > MESSAGE_MAX:
                    raise QmpProtocolError(f"QEMU sent more than {MESSAGE_MAX} bytes in one message")
            self._fail(QmpClosedError("QEMU closed the connection"))
        except QmpError as error:
            self._fail(error)
        except OSError:
            self._fail(QmpClosedError("the connection to QEMU is gone"))
        finally:
            self._fail(QmpClosedError("the connection to QEMU is read no more"))  # counts if nothing else did

    def _dispatch(self, line: bytes) -> None:
        if not line.strip():
            return
        message = _decode(line)
        if "event" in message:
            if len(line) > EVENT_MAX:
                raise QmpProtocolError(f"QEMU sent an event of {len(line)} bytes")
            self._take_event(message)
        elif "return" in message or "error" in message:
            self._take_answer(message)
        elif isinstance(message.get("QMP"), dict):
            with self._changed:
                self._greeting = _as_object(message["QMP"])
                self._changed.notify_all()
        else:
            raise QmpProtocolError("QEMU sent a message of no known kind")

    def _take_event(self, message: dict[str, object]) -> None:
        name = message["event"]
        if not isinstance(name, str):
            raise QmpProtocolError("QEMU sent an event without a name")
        event = Event(
            name=name,
            data=_as_object(message.get("data")),
            seconds=_clock(_as_object(message.get("timestamp"))),
        )
        with self._changed:
            self._events.append(event)
            callbacks = tuple(self._callbacks)
            self._changed.notify_all()
        for callback in callbacks:
            callback(event)

    def _take_answer(self, message: dict[str, object]) -> None:
        number = message.get("id")
        with self._changed:
            call = self._calls.get(number) if isinstance(number, int) else None
            if call is not None:
                call.answer = message
                self._changed.notify_all()
            elif number is None:
                # QEMU leaves the id out only when it could not read what we sent.
                raise QmpProtocolError("QEMU did not understand a command", detail=excerpt(message))
            # Else the answer to a command that was given up: dropped.

    def _fail(self, error: QmpError) -> None:
        with self._changed:
            if self._failure is None:
                self._failure = error
            self._changed.notify_all()
        try:
            self._connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # not connected any more, which is what is wanted


def _result(command: str, answer: dict[str, object]) -> object:
    if "error" not in answer:
        return answer.get("return")
    error = _as_object(answer["error"])
    return _refuse(command, error.get("class"), error.get("desc"))


def _refuse(command: str, error_class: object, description: object) -> NoReturn:
    words = plain(description[:TEXT_MAX]) if isinstance(description, str) else "no reason given"
    raise QmpCommandError(command, error_class[:TEXT_MAX] if isinstance(error_class, str) else "", words)


def excerpt(value: object) -> str:
    """The beginning of what QEMU said, for an error's detail, however long or deep it is."""
    try:
        return repr(value)[:200]
    except RecursionError:
        return "lists in lists without end"


def _decode(line: bytes) -> dict[str, object]:
    try:
        message = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        message = None
    if not isinstance(message, dict):
        raise QmpProtocolError("QEMU sent something that is not a JSON object", detail=repr(line[:200]))
    return message


def _as_object(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def _clock(stamp: dict[str, object]) -> float:
    seconds, micro = stamp.get("seconds"), stamp.get("microseconds")
    # QEMU says -1 for both when its clock failed (qmp-spec.txt, 2.2.5).
    if not isinstance(seconds, int) or not isinstance(micro, int):
        return 0.0
    if not 0 <= seconds < 1 << 40 or not 0 <= micro < 1_000_000:
        return 0.0
    return float(seconds) + micro / 1e6


def _pack_fds(fds: Sequence[int]) -> bytes:
    import array

    return array.array("i", fds).tobytes()

"""An agent that lies: it speaks our framing on a unix socket and answers as no agent should. No VM is needed.

What it says to each RPC is a `Lie`: one of `LIES`, chosen by the test or by a seed. The side under test is the host's
real code. `bounds` is how a test states what must hold whatever the guest does: time, memory, threads.
"""

from __future__ import annotations

import os
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from kata.protocol import frame
from kata.protocol.generated import status_pb2, ttrpc_pb2
from kata.protocol.messages import Method, method

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor
    from google.protobuf.message import Message

BLOCKING = frozenset({"WaitProcess", "GetOOMEvent", "ReadStdout", "ReadStderr"})
"""RPCs that an honest agent answers when something happens, which is never here."""
STAY = frozenset({"owner"})
"""Threads that live as long as their process, one for each pod."""
CHUNK = bytes(64 << 10)
ESCAPES = "\x1b]0;title\x07\x1b[2J\x1b[31mred\x9b1A\x7f\r\n\u202e\u2028rm -rf\x00"
"""What would rename, clear and rewrite a terminal."""
TEXTS = (
    "",
    ESCAPES,
    "../../../../etc/shadow",
    "/proc/self/root/etc/shadow",
    "/dev/sda",
    "eth0\n127.0.0.1 evil",
    "a" * 2_000,
    "%s%n{0}$(reboot)`reboot`;reboot",
    "--help",
    "\U0010ffff\ud7ff",
)
NUMBERS = (0, 1, -1, 255, 4096, 2**31 - 1, -(2**31), 2**32 - 1, 2**63 - 1, -(2**63), 2**64 - 1)
FLOATS = (0.0, -1.0, float("nan"), float("inf"), float("-inf"), 1e308)
STRANGE_CODES = (1, 2, 4, 5, 7, 13, 14, 16, 17, 99, -1, 2**31 - 1, -(2**31))


class Asked(NamedTuple):
    """One request, and all that a lie may use to answer it."""

    peer: Peer
    stream: int
    method: Method
    request: Message
    random: random.Random

    def send(self, data: bytes) -> None:
        """Bytes on the connection as they are."""
        self.peer.send(data)

    def answer(self, payload: bytes, stream: int | None = None) -> None:
        """A response frame."""
        self.send(frame.encode(self.stream if stream is None else stream, frame.RESPONSE, 0, payload))

    def reply(self, message: Message) -> None:
        """The answer of an agent that has served the request."""
        self.answer(ttrpc_pb2.Response(payload=message.SerializeToString()).SerializeToString())

    def fail(self, code: int, text: str, details: int = 0) -> None:
        """The answer of an agent that refuses, with so many empty details."""
        status = status_pb2.Status(code=code, message=text).SerializeToString() + b"\x1a\x00" * details
        self.answer(b"\x0a" + _varint(len(status)) + status)


Lie = Callable[[Asked], None]


class LyingAgent:
    """Listens at `address` from the start; a context manager.

    `lies` says how each RPC is answered, by its name; "*" stands for the others, which are honest without it. Requests
    are kept in `asked`, by name.
    """

    def __init__(self, path: Path, lies: Mapping[str, Lie] | None = None, seed: int = 0) -> None:
        self.address = f"unix://{path}"
        self.lies = dict(lies or {})
        self.asked: list[str] = []
        self.requests: list[Message] = []
        self.gone = threading.Event()
        self.random = random.Random(seed)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(os.fspath(path))
        self._listener.listen(16)
        self._peers: list[Peer] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def __enter__(self) -> LyingAgent:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End every connection and every flood."""
        self.gone.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for peer in list(self._peers):
            peer.close()
        self._thread.join(10)
        self._listener.close()

    def lie_for(self, name: str) -> Lie:
        """How a request of that name is answered."""
        return self.lies.get(name, self.lies.get("*", honest))

    def _accept(self) -> None:
        while not self.gone.is_set():
            try:
                connection = self._listener.accept()[0]
            except OSError:
                return
            peer = Peer(self, connection)
            self._peers.append(peer)
            peer.start()


class Peer:
    """One connection: a thread reads, and each answer has one of its own, since many never end."""

    def __init__(self, agent: LyingAgent, connection: socket.socket) -> None:
        self.agent = agent
        self.waiting: list[Asked] = []
        """Requests that a lie keeps for later."""
        self._connection = connection
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._reader = threading.Thread(target=self._read, daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._reader.start()

    def send(self, data: bytes) -> None:
        """Send all of it. Raises OSError once the client has gone."""
        with self._lock:
            self._connection.sendall(data)

    def close(self) -> None:
        """Hang up, and wait for every thread."""
        self.hang_up()
        for thread in (self._reader, *self._threads):
            if thread is not threading.current_thread():
                thread.join(10)
        self._connection.close()

    def hang_up(self) -> None:
        """End the connection from our side."""
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def _read(self) -> None:
        decoder = frame.Decoder()
        try:
            while data := self._connection.recv(65536):
                for found in decoder.feed(data):
                    self._take(found)
        except OSError:
            pass

    def _take(self, found: frame.Frame) -> None:
        envelope = ttrpc_pb2.Request.FromString(found.payload or b"")
        described = method(envelope.service, envelope.method)
        request = described.request.FromString(envelope.payload)
        self.agent.asked.append(described.name)
        self.agent.requests.append(request)
        seed = self.agent.random.randrange(1 << 32)
        asked = Asked(self, found.stream, described, request, random.Random(seed))
        thread = threading.Thread(target=self._lie, args=(asked,), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _lie(self, asked: Asked) -> None:
        with suppress(OSError):
            self.agent.lie_for(asked.method.name)(asked)


@contextmanager
def bounds(*, seconds: float, mib: float) -> Iterator[None]:
    """What is done inside takes at most so long, and the process never has that much more memory than before.

    Threads that come meanwhile must have gone again.
    """
    threads = set(threading.enumerate())
    before, begin = _reset_peak(), time.monotonic()
    yield
    elapsed, grown = time.monotonic() - begin, _peak() - before
    assert elapsed <= seconds, f"it took {elapsed:.1f} s, {seconds} are allowed"
    assert grown <= mib, f"{grown:.0f} MiB more than before, {mib} are allowed"
    for thread in set(threading.enumerate()) - threads:
        if thread.name not in STAY:
            thread.join(10)
            assert not thread.is_alive(), f"{thread.name} goes on"


def memory() -> float:
    """MiB that this process has now (proc_pid_status(5): VmRSS)."""
    return _status("VmRSS")


def _peak() -> float:
    return _status("VmHWM")


def _reset_peak() -> float:
    """proc_pid_clear_refs(5): 5 sets the peak to what is there now, which is returned."""
    Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _status(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(name)


# Section: answers that are none, or wrong


def honest(asked: Asked) -> None:
    """An empty answer of the right kind; to what waits for an event, none."""
    if asked.method.name not in BLOCKING:
        asked.reply(asked.method.response())


def never(asked: Asked) -> None:
    """No answer at all."""


def hangs_up(asked: Asked) -> None:
    """The connection ends instead."""
    asked.peer.hang_up()


def wrong_type(asked: Asked) -> None:
    """Some other message, with everything in it."""
    names = ("StatsContainer", "GetGuestDetails", "ListInterfaces", "GetMetrics", "ReadStdout", "WaitProcess")
    other = method("grpc.AgentService", asked.random.choice(names)).response()
    fill(other, asked.random)
    asked.reply(other)


def wrong_stream(asked: Asked) -> None:
    """The right answer to streams that are not the request's, and then to it."""
    payload = ttrpc_pb2.Response().SerializeToString()
    for stream in (0, 2, asked.stream + 2, 2**31, 2**32 - 1):
        asked.answer(payload, stream)
    honest(asked)


def empty(asked: Asked) -> None:
    """A frame without a payload, which is an answer whose fields are all unset."""
    asked.answer(b"")


def garbage_payload(asked: Asked) -> None:
    """A frame of random bytes."""
    asked.answer(b"\xff" + asked.random.randbytes(asked.random.randrange(1, 2000)))


def garbage_frames(asked: Asked) -> None:
    """Random bytes where frames should be; then nothing can be understood any more."""
    asked.send(asked.random.randbytes(100_000))
    asked.peer.hang_up()


def broken_groups(asked: Asked) -> None:
    """A payload of unknown groups in each other, deeper than a parser should go."""
    asked.answer(b"\x12" + _varint(200_000) + b"\x7b" * 200_000)


def truncated(asked: Asked) -> None:
    """Half a frame, and the end."""
    asked.send(frame.encode(asked.stream, frame.RESPONSE, 0, bytes(1000))[:500])
    asked.peer.hang_up()


def half_a_header(asked: Asked) -> None:
    """Five bytes of ten, and silence."""
    asked.send(frame.HEADER.pack(0, asked.stream, frame.RESPONSE, 0)[:5])


def announces_4_mib(asked: Asked) -> None:
    """A header for the longest payload there may be, all of it but one byte, and silence."""
    asked.send(frame.HEADER.pack(frame.MAX_PAYLOAD, asked.stream, frame.RESPONSE, 0))
    for _ in range(frame.MAX_PAYLOAD // len(CHUNK) - 1):
        asked.send(CHUNK)
    asked.send(CHUNK[1:])


def announces_4_gib(asked: Asked) -> None:
    """A header for a payload that nobody may send, and a flood that would be it."""
    asked.send(frame.HEADER.pack(2**32 - 1, asked.stream, frame.RESPONSE, 0))
    while not asked.peer.agent.gone.is_set():
        asked.send(CHUNK)


def too_long(asked: Asked) -> None:
    """One byte more than allowed."""
    asked.send(frame.HEADER.pack(frame.MAX_PAYLOAD + 1, asked.stream, frame.RESPONSE, 0))
    for _ in range(frame.MAX_PAYLOAD // len(CHUNK)):
        asked.send(CHUNK)
    asked.send(b"x")


def tiny_fields(asked: Asked) -> None:
    """4 MiB of empty messages in a list: each takes two bytes here, and dozens where it is read."""
    field = _longest_list(cast("Descriptor", asked.method.response.DESCRIPTOR))
    content = (_varint(field << 3 | 2) + b"\x00" if field else b"\x7a\x00") * 2_000_000
    asked.answer(b"\x12" + _varint(len(content)) + content)


def repeated(asked: Asked) -> None:
    """The same answer a hundred times."""
    for _ in range(100):
        asked.answer(b"")


def unasked(asked: Asked) -> None:
    """Answers, data and requests that nobody asked for, by the thousand; then the right answer."""
    for number in range(3000):
        kind = asked.random.choice((0, frame.REQUEST, frame.RESPONSE, frame.DATA, 9, 255))
        asked.send(frame.encode(asked.stream + 2 + number, kind, asked.random.randrange(256), bytes(20)))
    honest(asked)


def flood_of_frames(asked: Asked) -> None:
    """Frames to nobody, for ever."""
    frames = frame.encode(asked.stream + 1000, frame.RESPONSE, 0, bytes(10)) * 2000
    while not asked.peer.agent.gone.is_set():
        asked.send(frames)


def ends_without_answer(asked: Asked) -> None:
    """A data frame that says that there is no more."""
    asked.send(frame.encode(asked.stream, frame.DATA, frame.REMOTE_CLOSED | frame.NO_DATA, b""))


def late(asked: Asked) -> None:
    """Kept until three requests wait, and then answered last first."""
    asked.peer.waiting.append(asked)
    if len(asked.peer.waiting) >= 3:
        waiting, asked.peer.waiting = asked.peer.waiting, []
        for entry in reversed(waiting):
            honest(entry)


def byte_by_byte(asked: Asked) -> None:
    """The right answer, each byte by itself."""
    payload = ttrpc_pb2.Response(payload=asked.method.response().SerializeToString()).SerializeToString()
    for byte in frame.encode(asked.stream, frame.RESPONSE, 0, payload + b"\x7a\x64" + bytes(100)):
        asked.send(bytes([byte]))
        time.sleep(0.001)


def fails_with_megabytes(asked: Asked) -> None:
    """An error whose text fills the frame."""
    asked.fail(13, "e" * 4_000_000)


def fails_with_escapes(asked: Asked) -> None:
    """An error whose text is for a terminal, at some length."""
    asked.fail(asked.random.choice(STRANGE_CODES[:8]), ESCAPES * 2000)


def fails_with_details(asked: Asked) -> None:
    """An error with two million details."""
    asked.fail(13, "details", 2_000_000)


def fails_strangely(asked: Asked) -> None:
    """An error that only a host could know of, or with a code that there is not."""
    asked.fail(asked.random.choice(STRANGE_CODES), "as if")


def extremes(asked: Asked) -> None:
    """The right message with the worst values."""
    message = asked.method.response()
    fill(message, asked.random)
    asked.reply(message)


LIES: tuple[Lie, ...] = (
    *(never, hangs_up, wrong_type, wrong_stream, empty, garbage_payload, garbage_frames, broken_groups, truncated),
    *(half_a_header, announces_4_mib, announces_4_gib, too_long, tiny_fields, repeated, unasked, flood_of_frames),
    *(ends_without_answer, late, byte_by_byte, fails_with_megabytes, fails_with_escapes, fails_with_details),
    *(fails_strangely, extremes),
)
"""Every way of answering wrongly that fits each request."""

VALID = (honest, wrong_stream, empty, repeated, unasked, late, byte_by_byte, extremes)
"""Those after which the client has an answer that it can read."""


def anything(asked: Asked) -> None:
    """A lie by the agent's seed."""
    asked.random.choice(LIES)(asked)


# Section: floods


def flood_of_output(size: int) -> Lie:
    """ReadStdout and ReadStderr answer at once, for ever, with so many bytes."""

    def lie(asked: Asked) -> None:
        data = asked.method.response()
        data.data = bytes(size)  # type: ignore[attr-defined]
        asked.reply(data)

    return lie


def flood_of_memory_events(container_id: str) -> Lie:
    """GetOOMEvent answers at once, for ever."""

    def lie(asked: Asked) -> None:
        event = asked.method.response()
        event.container_id = container_id  # type: ignore[attr-defined]
        asked.reply(event)

    return lie


# Section: messages


def fill(message: Message, source: random.Random, depth: int = 0) -> None:
    """Set every field of a message to something that no honest agent would say."""
    for field in message.DESCRIPTOR.fields:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            _fill_map(message, field, source)
        elif field.is_repeated:
            for _ in range(source.choice((0, 1, 3, 20))):
                _add(getattr(message, field.name), field, source, depth)
        elif field.message_type is not None:
            if depth < 6:
                inner = getattr(message, field.name)
                inner.SetInParent()
                fill(inner, source, depth + 1)
        else:
            setattr(message, field.name, _value(field, source))


def _fill_map(message: Message, field: Any, source: random.Random) -> None:
    entries, value = getattr(message, field.name), field.message_type.fields_by_name["value"]
    for text in source.sample(TEXTS, 4):
        if value.message_type is not None:
            fill(entries[text[:1000]], source, 5)
        else:
            entries[text[:1000]] = _value(value, source)


def _add(entries: Any, field: Any, source: random.Random, depth: int) -> None:
    if field.message_type is None:
        entries.append(_value(field, source))
    elif depth < 6:
        fill(entries.add(), source, depth + 1)


def _value(field: Any, source: random.Random) -> object:
    """A value that the field can hold; integers wrap around as they would on the wire."""
    if field.cpp_type in (field.CPPTYPE_DOUBLE, field.CPPTYPE_FLOAT):
        return source.choice(FLOATS)
    if field.type == field.TYPE_BYTES:
        return source.randbytes(source.choice((0, 1, 100)))
    if field.type == field.TYPE_STRING:
        return source.choice(TEXTS).encode("utf-8", "ignore").decode()
    if field.type == field.TYPE_BOOL:
        return source.random() < 0.5
    number, narrow = source.choice(NUMBERS), field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_UINT32)
    if field.type == field.TYPE_ENUM:
        return struct.unpack("i", struct.pack("I", number % (1 << 32)))[0]
    signed = field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_INT64)
    letters = ("I", "i") if narrow else ("Q", "q")
    return struct.unpack(letters[signed], struct.pack(letters[0], number % (1 << (32 if narrow else 64))))[0]


def _longest_list(message: Descriptor) -> int:
    """The number of a list of messages, or 0: the field that takes most memory."""
    for field in message.fields:
        if field.message_type is not None and field.is_repeated:
            return field.number
    return 0


def _varint(value: int) -> bytes:
    result = bytearray()
    while value > 0x7F:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    result.append(value)
    return bytes(result)

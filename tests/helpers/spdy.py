"""The client's half of SPDY/3.1, as much of it as Kubernetes' streaming needs: exec, attach and port-forward.

A connection begins as HTTP; after the upgrade the client opens streams, each named by its headers. Header blocks are
compressed by zlib; ours use no dictionary, which a reader accepts, and those of replies say nothing that we need.
(SPDY draft 3.1, sections 2.2 to 2.6; Kubernetes' remotecommand protocol v4.)
"""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import struct
import threading
import zlib
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

SYN_STREAM, SYN_REPLY, RST_STREAM, PING, GOAWAY = 1, 2, 3, 6, 7
FIN = 1
TIMEOUT = 60.0


class Stream:
    """One stream of a connection."""

    def __init__(self, connection: Spdy, number: int) -> None:
        self._connection = connection
        self._number = number
        self.received: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.rest = b""

    def write(self, data: bytes, *, last: bool = False) -> None:
        """Send data; with `last`, the stream's end from our side."""
        self._connection.send_data(self._number, data, FIN if last else 0)

    def read_until(self, text: bytes, timeout: float = TIMEOUT) -> bytes:
        """What came up to `text`, and that."""
        while text not in self.rest:
            data = self.received.get(timeout=timeout)
            assert data is not None, f"{text!r} not in {self.rest!r}"
            self.rest += data
        found, _, self.rest = self.rest.partition(text)
        return found + text

    def read(self, size: int, timeout: float = TIMEOUT) -> bytes:
        """So many bytes."""
        while len(self.rest) < size:
            data = self.received.get(timeout=timeout)
            assert data is not None, f"the stream ended after {len(self.rest)} bytes of {size}"
            self.rest += data
        found, self.rest = self.rest[:size], self.rest[size:]
        return found

    def read_all(self, timeout: float = TIMEOUT) -> bytes:
        """What comes until the other side ends the stream."""
        while (data := self.received.get(timeout=timeout)) is not None:
            self.rest += data
        found, self.rest = self.rest, b""
        return found


class Spdy:
    """A connection to a streaming URL. Context manager."""

    def __init__(self, url: str, protocol: str, connect: Callable[[str, int], socket.socket]) -> None:
        parts = urlsplit(url)
        assert parts.hostname and parts.port
        self._sock = connect(parts.hostname, parts.port)
        self._sock.settimeout(None)
        self._lock = threading.Lock()
        self._compress = zlib.compressobj()
        self._streams: dict[int, Stream] = {}
        self._next = 1
        self._upgrade(parts.path, protocol)
        self._reader = threading.Thread(target=self._read, name="spdy", daemon=True)
        self._reader.start()

    def __enter__(self) -> Spdy:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # the other side may have ended it
            self._sock.shutdown(socket.SHUT_RDWR)
        self._reader.join(TIMEOUT)
        self._sock.close()

    def open(self, **headers: str) -> Stream:
        """A new stream with these headers, whose names are sent in lower case."""
        block = struct.pack("!I", len(headers))
        for name, value in headers.items():
            for text in (name.lower().encode(), value.encode()):
                block += struct.pack("!I", len(text)) + text
        with self._lock:
            number, self._next = self._next, self._next + 2
            stream = self._streams[number] = Stream(self, number)
            packed = self._compress.compress(block) + self._compress.flush(zlib.Z_SYNC_FLUSH)
            self._control(SYN_STREAM, 0, struct.pack("!IIH", number, 0, 0) + packed)
        return stream

    def send_data(self, number: int, data: bytes, flags: int) -> None:
        """A data frame."""
        with self._lock:
            self._sock.sendall(struct.pack("!II", number, flags << 24 | len(data)) + data)

    def _control(self, kind: int, flags: int, body: bytes) -> None:
        self._sock.sendall(struct.pack("!HHI", 0x8003, kind, flags << 24 | len(body)) + body)

    def _upgrade(self, path: str, protocol: str) -> None:
        lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Connection: Upgrade", "Upgrade: SPDY/3.1"]
        lines += [f"X-Stream-Protocol-Version: {protocol}", "Content-Length: 0", "", ""]
        self._sock.sendall("\r\n".join(lines).encode())
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            byte = self._sock.recv(1)
            assert byte, answer
            answer += byte
        assert b" 101 " in answer.splitlines()[0], answer

    def _read(self) -> None:
        try:
            while True:
                first, second = struct.unpack("!II", self._exactly(8))
                flags, body = second >> 24, self._exactly(second & 0xFFFFFF)
                if first >> 31:
                    self._take_control(first & 0xFFFF, flags, body)
                else:
                    self._take(first, flags, body)
        except (OSError, EOFError):
            for stream in self._streams.values():
                stream.received.put(None)

    def _take_control(self, kind: int, flags: int, body: bytes) -> None:
        if kind == PING:
            with self._lock:
                self._control(PING, 0, body)
        elif kind in (SYN_REPLY, RST_STREAM):
            self._take(int.from_bytes(body[:4], "big"), FIN if kind == RST_STREAM else flags, b"")

    def _take(self, number: int, flags: int, data: bytes) -> None:
        stream = self._streams[number]
        if data:
            stream.received.put(data)
        if flags & FIN:
            stream.received.put(None)

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            part = self._sock.recv(size - len(data))
            if not part:
                raise EOFError
            data += part
        return bytes(data)


def exit_code(error: bytes) -> int:
    """The exit code in what an exec's error stream says (a Kubernetes Status)."""
    status: dict[str, Any] = json.loads(error)
    if status["status"] == "Success":
        return 0
    assert status["reason"] == "NonZeroExitCode", status
    return int(status["details"]["causes"][0]["message"])

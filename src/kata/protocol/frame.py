"""One ttrpc frame: a ten-byte header and a payload of at most 4 MiB.

Called by `channel`. Pure bytes: never add I/O, and nothing of what a payload means.

    bytes 0-3  payload length, big endian        byte 8  type: 1 request, 2 response, 3 data
    bytes 4-7  stream id, big endian             byte 9  flags

Source: ttrpc's protocol description. The limit holds both ways; a sender that breaks it has its payload skipped to
the byte, so that the frames behind it are still understood.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

HEADER = struct.Struct(">IIBB")
MAX_PAYLOAD = 4 << 20

REQUEST, RESPONSE, DATA = 1, 2, 3

REMOTE_CLOSED = 0x01
"""The sender of this frame sends no more on the stream."""
REMOTE_OPEN = 0x02
"""On a request: data frames will follow."""
NO_DATA = 0x04
"""On data: there is no message in this frame, which tells it from an empty message."""


class Frame(NamedTuple):
    """A frame as received. `payload` is None where it was longer than allowed and has been thrown away."""

    stream: int
    kind: int
    flags: int
    payload: bytes | None


def encode(stream: int, kind: int, flags: int, payload: bytes, rest: int = 0) -> bytes:
    """The bytes of a frame, but for the last `rest` of its payload. Raises ValueError for one above the limit."""
    length = len(payload) + rest
    if length > MAX_PAYLOAD:
        raise ValueError(f"a payload of {length} bytes is above ttrpc's limit of {MAX_PAYLOAD}")
    return HEADER.pack(length, stream, kind, flags) + payload


class Decoder:
    """Makes frames of bytes that arrive in pieces. Holds at most one payload and what was fed last."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._skip = 0

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that `data` completes. No bytes are refused: each header announces a length, whatever it is.

        A payload above the limit is reported when its header is complete and skipped as it arrives.
        """
        frames: list[Frame] = []
        if not self._buffer and not self._skip:
            consumed = self._parse(data, frames)
            if consumed < len(data):
                self._buffer += memoryview(data)[consumed:]
        else:
            self._buffer += data
            consumed = self._parse(self._buffer, frames)
            del self._buffer[:consumed]
        return frames

    def _parse(self, data: bytes | bytearray, frames: list[Frame]) -> int:
        """Append the complete frames of `data` to `frames`; returns how many bytes are done with."""
        position, available = min(self._skip, len(data)), len(data)
        self._skip -= position
        while available - position >= HEADER.size:
            length, stream, kind, flags = HEADER.unpack_from(data, position)
            start = position + HEADER.size
            if length > MAX_PAYLOAD:
                frames.append(Frame(stream, kind, flags, None))
                position = min(start + length, available)
                self._skip = start + length - position
            elif start + length <= available:
                frames.append(Frame(stream, kind, flags, bytes(memoryview(data)[start : start + length])))
                position = start + length
            else:
                break
        return position

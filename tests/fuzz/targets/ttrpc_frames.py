"""Bytes of a ttrpc connection: however they are cut, the same frames come out, and nothing piles up."""

from __future__ import annotations

from kata.protocol import frame
from kata.protocol.frame import Decoder, Frame

SEEDS = (
    b"\x03" + frame.encode(1, frame.REQUEST, 0, b"ab") + frame.encode(3, frame.DATA, frame.REMOTE_CLOSED, b""),
    b"\x0b" + frame.HEADER.pack(frame.MAX_PAYLOAD + 1, 7, frame.RESPONSE, 0) + bytes(64),
    b"\x01" + frame.encode(2**32 - 1, 255, 255, bytes(300))[:-1],
)
TOKENS = (b"\0\0\0\0\0\0\0\1\1\0", b"\0\x40\0\1", b"\xff\xff\xff\xff", b"\0\x40\0\0")


def target(data: bytes) -> None:
    """The first byte says into how long pieces the rest is cut."""
    size, stream = (data[0] + 1 if data else 1), data[1:]
    whole, pieces = Decoder(), Decoder()
    frames = whole.feed(stream)
    parts = [one for begin in range(0, len(stream), size) for one in pieces.feed(stream[begin : begin + size])]
    assert parts == frames
    assert len(pieces._buffer) <= frame.HEADER.size + frame.MAX_PAYLOAD
    assert bytes(whole._buffer) == bytes(pieces._buffer)
    assert whole._skip == pieces._skip
    _written_again(stream, frames)


def _written_again(stream: bytes, frames: list[Frame]) -> None:
    """Frames in their order are the stream's beginning, up to the first that was thrown away."""
    position = 0
    for one in frames:
        if one.payload is None:
            break
        encoded = frame.encode(one.stream, one.kind, one.flags, one.payload)
        assert stream[position : position + len(encoded)] == encoded
        position += len(encoded)

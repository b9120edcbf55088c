"""What a container has written, on somebody's terminal: safe there, whole, and the same however it came in pieces."""

from __future__ import annotations

import io
import re

from kata.ctl.terminal import COLOUR, HARMFUL, Shown
from kata.plain import plain

SEEDS = (
    b"\3plain\r\n\x1b[31mred\x1b[0m\rover\x1b[2J\x07",
    b"\1\x1b[" + b"1" * 70 + b"m\r\r\r\n" + "\u202e\u2028\x85".encode() + b"\xff\xc3",
    b"\2\xf0\x9f\x98\x80\x1b[38:2:1:2:3m\x1b",
)
TOKENS = (b"\x1b[", b"\x1b[0m", b"m", b";", b"\r", b"\n", b"\x1b", "\u2066".encode(), b"\xe2\x80", b"\xc2\x9b")
LEFT = re.compile(rf"\r|{HARMFUL}")
"""What must not come out, colours apart."""


def target(data: bytes) -> None:
    """The first byte says into how long pieces the rest is cut."""
    size, text = (data[0] + 1 if data else 1), data[1:]
    whole, pieces = _shown([text]), _shown([text[begin : begin + size] for begin in range(0, len(text), size)])
    # More returns than anybody means are line ends of their own, as many as there are pieces of them.
    assert re.sub(rb"\n+", b"\n", whole) == re.sub(rb"\n+", b"\n", pieces)
    found = LEFT.search(re.sub(COLOUR, "", whole.decode()))
    assert found is None, found
    assert plain(text.decode("utf-8", "replace")).isprintable()


def _shown(pieces: list[bytes]) -> bytes:
    stream = io.BytesIO()
    output = Shown(stream)
    for piece in pieces:
        output.write(piece)
    output.finish()
    return stream.getvalue()

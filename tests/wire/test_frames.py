"""ttrpc frames: bytes written by hand from the protocol's description, and whatever hypothesis thinks of."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.protocol import frame
from kata.protocol.frame import Decoder, Frame

GOLDEN = [
    (Frame(1, 1, 0, b"ab"), bytes.fromhex("00000002 00000001 01 00 6162")),
    (Frame(0x01020305, 2, 0, b""), bytes.fromhex("00000000 01020305 02 00")),
    (Frame(3, 3, 5, b"\x00"), bytes.fromhex("00000001 00000003 03 05 00")),
]

FRAMES = st.lists(
    st.builds(Frame, st.integers(0, 2**32 - 1), st.integers(0, 255), st.integers(0, 255), st.binary(max_size=200)),
    max_size=8,
)


@pytest.mark.parametrize(("one", "data"), GOLDEN)
def test_golden_bytes(one: Frame, data: bytes) -> None:
    assert frame.encode(one.stream, one.kind, one.flags, one.payload or b"") == data
    assert Decoder().feed(data) == [one]


@given(FRAMES, st.lists(st.integers(1, 50)))
def test_any_split_gives_the_same_frames(frames: list[Frame], cuts: list[int]) -> None:
    data = b"".join(frame.encode(one.stream, one.kind, one.flags, one.payload or b"") for one in frames)
    decoder, found, position = Decoder(), [], 0
    for cut in cuts:
        found += decoder.feed(data[position : position + cut])
        position += cut
    found += decoder.feed(data[position:])
    assert found == frames


@given(st.lists(st.binary(max_size=100), max_size=20))
def test_hostile_bytes_never_raise_and_never_pile_up(pieces: list[bytes]) -> None:
    decoder = Decoder()
    for piece in pieces:
        for one in decoder.feed(piece):
            assert one.payload is None or len(one.payload) <= frame.MAX_PAYLOAD
    assert len(decoder._buffer) <= sum(map(len, pieces))


def test_the_limit_is_exact() -> None:
    frame.encode(1, 1, 0, bytes(frame.MAX_PAYLOAD))
    with pytest.raises(ValueError, match="limit"):
        frame.encode(1, 1, 0, bytes(frame.MAX_PAYLOAD + 1))
    [one] = Decoder().feed(frame.HEADER.pack(frame.MAX_PAYLOAD + 1, 7, 1, 0))
    assert one == Frame(7, 1, 0, None)

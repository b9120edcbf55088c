"""What an asker sends comes back as it was, and nothing else is taken for it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.zygote.message import LIMIT, Request, decode, encode

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
names = st.binary(min_size=1).map(lambda data: data.replace(b"\0", b"").replace(b"=", b"")).filter(bool)
values = st.binary().map(lambda data: data.replace(b"\0", b""))


@given(st.lists(texts, min_size=1), st.dictionaries(names, values), st.integers(0, 0o777))
def test_there_and_back(argv: list[str], environ: dict[bytes, bytes], umask: int) -> None:
    found = decode(encode(Request(argv, environ, umask)))
    assert (found.argv, found.environ, found.umask) == (argv, environ, umask)


@given(st.binary())
def test_garbage_is_refused_or_a_request(data: bytes) -> None:
    try:
        found = decode(data)
    except ValueError:
        return
    assert found.argv
    assert b"" not in found.environ


def test_what_is_too_big_is_not_sent() -> None:
    with pytest.raises(ValueError, match="too big"):
        encode(Request(["x"], {b"A": b"b" * LIMIT}, 0))

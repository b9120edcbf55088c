"""A message to a zygote: a process of its own user sends it, and what is forked does as it says."""

from __future__ import annotations

from kata.zygote.message import LIMIT, Request, decode, encode

SEEDS = (
    encode(Request(["shim", "-id", "a"], {b"PATH": b"/bin", b"A": b"=\xff"}, 0o22)),
    b"22\0002\0a",
    b"-1\0001\0a\0=b",
)
TOKENS = (b"\0", b"=", b"777", b"-1", b"0x", b"1_0", b"\xff")


def target(data: bytes) -> None:
    """What is understood can be said again, and has a program's name and a umask."""
    try:
        request = decode(data[:LIMIT])
    except ValueError:
        return
    assert request.argv
    assert 0 <= request.umask <= 0o777
    assert all(name and b"=" not in name for name in request.environ)
    again = decode(encode(request))
    assert (again.argv, again.environ, again.umask) == (request.argv, request.environ, request.umask)

"""What a guest writes to its console, and what of it people are shown: nothing that steers a terminal."""

from __future__ import annotations

import socket

from kata.hypervisor.qemu.console import LINE_MAX, Console, clean_lines

SEEDS = (
    b"\5[    0.000000] Linux version 6.12\r\n\x1b[1;31mred\x1b[0m\n",
    b"\1\x1b]0;title\x07\x1b]8;;http://a\x1b\\link\x1b]8;;\x1b\\\n\x1bc\x9b2J",
    b"\7" + b"\x1b[" + b"0;" * 200 + b"m\n" + "\u202e\u2066\u200f".encode() + b"\xff\xfe\n",
    b"\0" + b"a" * 2000 + b"\r\r\n\n",
)
TOKENS = (b"\x1b[", b"\x1b]", b"\x1b\\", b"\x07", b"\r", b"\n", b"\x9b", "\u202e".encode(), b"\xc2", b"\x1b")


def target(data: bytes) -> None:
    """The first byte says into how long pieces the rest is cut; what is told of live is clean as well."""
    size, text = (data[0] * 16 + 1 if data else 1), data[1:50_000]
    for line in clean_lines(text.decode("utf-8", "replace")):
        _check(line)
    told: list[str] = []
    ours, theirs = socket.socketpair()
    console = Console(ours)
    try:
        with theirs:
            console.follow(told.append)
            for begin in range(0, len(text), size):
                theirs.sendall(text[begin : begin + size])
        console.finish(5.0)
        for line in (*told, *filter(None, console.tail(50).split("\n"))):
            _check(line)
    finally:
        console.close()


def _check(line: str) -> None:
    assert 0 < len(line) <= LINE_MAX
    assert all(char.isprintable() or char == "\t" for char in line)

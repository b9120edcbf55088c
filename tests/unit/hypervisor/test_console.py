"""The guest's console as people see it: bounded, clean, and never in the guest's way."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from kata.hypervisor.qemu.console import KEPT_BYTES, LINE_MAX, LINES_AT_ONCE, Console, clean_lines


@pytest.fixture
def pair() -> Iterator[tuple[Console, socket.socket]]:
    ours, guest = socket.socketpair()
    console = Console(ours)
    yield console, guest
    guest.close()
    console.close()


def written(console: Console, guest: socket.socket, data: bytes) -> None:
    guest.sendall(data)
    guest.shutdown(socket.SHUT_WR)
    console.finish(5)


def test_the_last_lines(pair: tuple[Console, socket.socket]) -> None:
    written(*pair, b"one\r\ntwo\r\n\r\nthree")
    assert pair[0].tail(2) == "two\nthree"
    assert pair[0].tail(0) == ""
    assert pair[0].tail(99) == "one\ntwo\nthree"


def test_a_flood_is_read_and_forgotten(pair: tuple[Console, socket.socket]) -> None:
    pair[1].settimeout(10)
    written(*pair, b"old\n" + b"x" * (KEPT_BYTES * 20) + b"\nlast\n")
    assert pair[0].tail(1) == "last"
    assert len(pair[0].tail(10_000)) <= KEPT_BYTES
    assert "old" not in pair[0].tail(10_000)


def test_a_flood_does_not_fill_the_log(pair: tuple[Console, socket.socket]) -> None:
    console, guest = pair
    heard: list[str] = []
    console.follow(heard.append)
    written(console, guest, b"line\n" * 20_000)
    assert LINES_AT_ONCE <= len(heard) < LINES_AT_ONCE + 1000
    left_out = [line for line in heard if "left out" in line]
    assert len(left_out) < 1000
    told = sum(int(line.split()[0].strip("(")) for line in left_out)
    assert console._left_out + told + len(heard) - len(left_out) == 20_000


def test_text_survives_the_end(pair: tuple[Console, socket.socket]) -> None:
    written(*pair, b"bye\n")
    pair[0].close()
    assert pair[0].tail(1) == "bye"


def test_who_follows_hears_each_line_once(pair: tuple[Console, socket.socket]) -> None:
    console, guest = pair
    guest.sendall(b"early\n")
    while not console.tail(1):
        guest.sendall(b"\n")  # until it was read
    heard: list[str] = []
    console.follow(heard.append)
    written(console, guest, b"one \x1b[1mb" + b"ig\x1b[0m\r\ntw" + b"o\n" + b"y" * (KEPT_BYTES * 3) + b"\nend")
    assert heard[:3] == ["early", "one big", "two"]
    assert heard[3:] == ["y" * LINE_MAX]  # the end has no end yet


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b[2J\x1b[31mred\x1b[0m", ["red"]),
        ("\x1b]0;title\x07after", ["after"]),
        ("\x1bcreset \x1b(Bset \x1b7save", ["reset set save"]),
        ("bell\x07 nul\x00 del\x7f c1\x9b31m", ["bell nul del c131m"]),
        ("right\u202eleft", ["rightleft"]),
        ("tab\tstays", ["tab\tstays"]),
        ("a\rb", ["a", "b"]),
        ("y" * (LINE_MAX + 9), ["y" * LINE_MAX]),
        (" " * LINE_MAX + "far\nnext", ["next"]),
        ("grüße\n", ["grüße"]),
    ],
)
def test_nothing_acts_on_a_terminal(text: str, expected: list[str]) -> None:
    assert clean_lines(text) == expected

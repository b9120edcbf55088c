"""What a container has written, on the terminal of whoever looks at it later."""

from __future__ import annotations

import io
import re

from hypothesis import given
from hypothesis import strategies as st

from kata.ctl.terminal import Shown, shown


class Screen(io.BytesIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


def on_screen(*pieces: bytes) -> bytes:
    screen = Screen()
    with shown(screen) as output:
        for piece in pieces:
            output.write(piece)
    return screen.getvalue()


def test_text_and_colours_stay_and_what_steers_does_not() -> None:
    assert on_screen("grün\tx\r\nnext\n".encode()) == "grün\tx\nnext\n".encode()
    assert on_screen(b"\x1b[1;31mred") == b"\x1b[1;31mred\x1b[0m"
    assert on_screen(b"\x1b[2J\x1b]0;title\x07\x08\x7f") == b"^[[2J^[]0;title???"
    assert on_screen("\x9b2J‮abc\xad".encode()) == "?2J?abc\xad".encode()
    assert on_screen(b"50%\r100%\r\r\n") == b"50%\n100%\n"
    assert on_screen(b"\xff\x80") == "��".encode()


def test_a_million_returns() -> None:
    """They once took a time that grew with the square of their number: this test would not end."""
    count = 1 << 20
    assert on_screen(b"\r" * count + b"a") == b"\n" * count + b"a"


def test_pieces_may_be_cut_anywhere() -> None:
    text = "ä\x1b[31mred\x1b[0m\r\n\x1b]0;t\x07\r".encode()
    whole = on_screen(text)
    for cut in range(len(text)):
        assert on_screen(text[:cut], text[cut:]) == whole
    assert on_screen(*(text[place : place + 1] for place in range(len(text)))) == whole


def test_what_is_no_terminal_gets_every_byte() -> None:
    pipe = io.BytesIO()
    with shown(pipe) as output:
        assert not isinstance(output, Shown)
        output.write(b"\x1b[2J\xff")
    assert pipe.getvalue() == b"\x1b[2J\xff"


@given(st.lists(st.text("\x1b[]0123;mHJ\r\n\x07\x9b\x08ab‮", max_size=30)))
def test_no_text_steers_a_terminal(pieces: list[str]) -> None:
    left = re.sub(rb"\x1b\[[0-9;]*m", b"", on_screen(*(piece.encode() for piece in pieces)))
    assert re.fullmatch("[^\x00-\x08\x0b-\x1f\x7f-\x9f‮]*", left.decode())

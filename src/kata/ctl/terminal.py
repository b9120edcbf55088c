"""What a container or a guest has written, on the terminal of whoever looks at it later.

A program's own terminal gets every byte (`attach`, `console.interact`): there it is the program that one looks at. In
a log, or in the output of one command, a sequence that moves, renames or hides would be taken for what kata shows. So
colours are kept there, and the rest is made visible. What is no terminal gets every byte as it is.
"""

from __future__ import annotations

import codecs
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO, Protocol

    class Output(Protocol):
        """Where bytes can be written."""

        def write(self, data: bytes, /) -> object: ...

        def flush(self) -> None: ...


COLOUR = r"\x1b\[[0-9;:]{0,64}m"
"""ECMA-48's SGR, of a sensible length."""
HARMFUL = "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]"
"""Controls but for tab and line ends, and what turns the direction of writing around."""
UNSAFE = re.compile(f"({COLOUR})|(\r+)(\n)?|{HARMFUL}")
"""A run of returns is matched once and whole: looked at from each of them, a long one would take hours."""
BEGUN = re.compile(r"(\x1b(\[[0-9;:]{0,64})?|\r{1,64})\Z")
"""The end of a piece that may be half of something."""
RESET = b"\x1b[0m"


@contextmanager
def shown(stream: BinaryIO) -> Iterator[Output]:
    """`stream` as it is to be written to: a terminal through `Shown`. All is written in the end."""
    output = Shown(stream) if stream.isatty() else stream
    try:
        yield output
    finally:
        if isinstance(output, Shown):
            output.finish()
        output.flush()


class Shown:
    """Writes to a terminal what is safe there. `finish` ends the colours that were begun."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._begun = ""
        self._coloured = False

    def write(self, data: bytes) -> None:
        """Pieces may be cut anywhere."""
        text = self._begun + self._decode(data)
        cut = BEGUN.search(text)
        self._begun = text[cut.start() :] if cut else ""
        self._show(text[: cut.start()] if cut else text)

    def flush(self) -> None:
        """What was written is on the terminal, but for the half of something."""
        self._stream.flush()

    def finish(self) -> None:
        """Nothing more comes."""
        begun, self._begun = self._begun + self._decode(b"", final=True), ""
        self._show(begun)
        if self._coloured:
            self._stream.write(RESET)
            self._coloured = False

    def _show(self, text: str) -> None:
        self._stream.write(UNSAFE.sub(self._instead, text).encode())

    def _instead(self, found: re.Match[str]) -> str:
        """A return that does not end a line would hide what stands there; so it ends the line."""
        if found[1]:
            self._coloured = True
            return found[1]
        if found[2]:
            return "\n" if found[3] else "\n" * len(found[2])
        return "^[" if found[0] == "\x1b" else "?"

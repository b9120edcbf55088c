"""Keeps the last of what a guest writes to its serial console. Knows nothing of QEMU but one socket.

The guest is hostile and may write for ever: the text is held in a ring of fixed size, read by a thread so that
the guest is never stopped by a full buffer, and stripped of control characters before anyone sees it.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

KEPT_BYTES = 64 << 10
LINE_MAX = 512
LINES_AT_ONCE, LINES_A_SECOND = 2000, 50
"""How much is told of: a boot writes a thousand lines at once, and a guest may write for ever into our log."""
ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-~])")
"""Terminal sequences as ECMA-48 writes them: CSI, OSC, and the short escapes."""


class Console:
    """Reads `connection` (which it then owns) until the other end closes it or `close` is called."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._kept = bytearray()
        self._told: Callable[[str], None] | None = None
        self._open_line = ""
        self._allowed, self._allowed_at = float(LINES_AT_ONCE), time.monotonic()
        self._left_out = 0
        self._thread = threading.Thread(target=self._read, name="console", daemon=True)
        self._thread.start()

    def tail(self, lines: int) -> str:
        """The last `lines` lines, control characters removed and long lines cut."""
        with self._lock:
            text = self._kept.decode("utf-8", "replace")
        return "\n".join(clean_lines(text)[-lines:]) if lines > 0 else ""

    def follow(self, told: Callable[[str], None]) -> None:
        """Tell of each whole line, cleaned as in `tail`: what is kept first, then whatever comes. Call once.

        A guest that writes too fast is told of in part, and it is said how many lines are missing.
        """
        with self._lock:
            self._told = told
            self._tell(bytes(self._kept))

    def finish(self, timeout: float) -> None:
        """Wait up to `timeout` seconds for the writer's end to be closed and all it wrote to be read."""
        self._thread.join(timeout)

    def close(self) -> None:
        """Stop reading. What was read stays available."""
        try:
            self._connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the other end is gone, or close was called before
        self._thread.join(5.0)
        self._connection.close()

    def _read(self) -> None:
        while True:
            try:
                chunk = self._connection.recv(16384)
            except OSError:
                return
            if not chunk:
                return
            with self._lock:
                self._kept += chunk
                if len(self._kept) > KEPT_BYTES:
                    del self._kept[:-KEPT_BYTES]
                if self._told is not None:
                    self._tell(chunk)

    def _tell(self, chunk: bytes) -> None:
        assert self._told is not None
        *whole, rest = re.split(r"[\r\n]+", self._open_line + chunk.decode("utf-8", "replace"))
        self._open_line = rest[-LINE_MAX:]  # a guest that never ends its line gets no more of our memory
        lines = clean_lines("\n".join(whole))
        room = self._room(len(lines))
        if self._left_out and room:
            self._told(f"({self._left_out} lines of the guest were left out)")
            self._left_out = 0
        for line in lines[:room]:
            self._told(line)
        self._left_out += len(lines) - room

    def _room(self, wanted: int) -> int:
        """How many of `wanted` lines may be told of now."""
        now = time.monotonic()
        self._allowed = min(LINES_AT_ONCE, self._allowed + (now - self._allowed_at) * LINES_A_SECOND)
        self._allowed_at = now
        room = min(wanted, int(self._allowed))
        self._allowed -= room
        return room


def clean_lines(text: str) -> list[str]:
    """`text` as lines that are safe to show on a terminal; blank ones left out."""
    plain = ESCAPES.sub("", text)
    lines = (
        "".join(char for char in line if char.isprintable() or char == "\t") for line in re.split(r"[\r\n]+", plain)
    )
    return [cut for line in lines if (cut := line[:LINE_MAX].rstrip())]

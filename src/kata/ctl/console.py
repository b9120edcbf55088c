"""Both ways of using a guest's debug console: as a terminal, and for a script whose output and exit code count.

The console is nothing but bytes to and from a shell on a terminal of the guest. Over virtio-serial it is one line for
one client, and a shell that the last client left behind takes a second to go; what is typed meanwhile is lost. So a
script first asks until it is answered.
"""

from __future__ import annotations

import os
import re
import secrets
import select
import sys
import time
from typing import TYPE_CHECKING

from kata.ctl.attach import raw_terminal, terminal_size
from kata.protocol.transport import dial
from kata.sandbox.errors import GuestError

if TYPE_CHECKING:
    from kata.ctl.terminal import Output
    from kata.protocol.connection import Connection

DIAL_TIMEOUT = 10.0
ANSWER_TIMEOUT, ASK_AGAIN = 60.0, 3.0
"""Seconds until a shell must have answered, and after which it is asked once more."""
ANSWER_STALL = 10.0
"""Seconds after which a console that takes not one byte is given up."""
PROMPT_TIMEOUT = 5.0
DETACH = b"\x1d"
"""Ctrl-], as telnet and virsh have it."""
CHUNK = 65536
KEPT = 64 << 10
"""Bytes of what a shell has said that are looked at for a mark: a guest may talk for ever."""
PIECE = 400
"""Characters of a line that is typed for a script: shells take about a thousand."""
NO_SHELL = b"kata-agent: this guest image has no shell"


def connect(url: str) -> Connection:
    """The connection to a console. Raises GuestError."""
    try:
        return dial(url, DIAL_TIMEOUT)
    except (OSError, ValueError) as error:
        raise GuestError(f"the debug console cannot be reached: {error}", hint="kata ps shows what runs") from error


def interact(connection: Connection) -> int:
    """Our terminal is the shell's until the key that leaves it, or the end of either."""
    print("kata: Ctrl-] leaves the console", file=sys.stderr)
    rows, columns = terminal_size()
    with raw_terminal():
        select.select([connection], [], [], PROMPT_TIMEOUT)  # what is typed before a shell is there is lost
        # Nothing but bytes gets through, so the shell is told the size the way a person would.
        _type(connection, f" stty rows {rows} columns {columns}\r".encode())
        relay(connection, 0, 1)
    print(file=sys.stderr)
    return 0


def relay(connection: Connection, source: int, sink: int) -> None:
    """Bytes both ways until DETACH is typed, or either side ends."""
    poll = select.poll()
    poll.register(source, select.POLLIN)
    poll.register(connection.fileno(), select.POLLIN)
    while True:
        ready = dict(poll.poll())
        if connection.fileno() in ready:
            data = _read(connection)
            if not data:
                return
            _write_all(sink, data)
        if source in ready:
            typed, leave, _ = os.read(source, CHUNK).partition(DETACH)
            if typed:
                _type(connection, typed)
            if leave or not typed:
                return


def _read(connection: Connection) -> bytes:
    """What the console says; nothing once it has ended, however it did."""
    try:
        return connection.read(CHUNK)
    except OSError:
        return b""


def _type(connection: Connection, data: bytes) -> None:
    """Type at the shell. Raises GuestError when it takes nothing: nobody could leave the console then."""
    try:
        connection.write(data, stall=ANSWER_STALL)
    except OSError as error:
        raise GuestError(f"the debug console takes no input: {error}") from error


def run(connection: Connection, script: str, output: Output, *, answer_timeout: float = ANSWER_TIMEOUT) -> int:
    """Run a shell script; its output goes to `output` as it comes, both streams as one. Its exit code.

    Raises GuestError when no shell answers, or the console ends before the script.
    """
    shell, deadline = Shell(connection), time.monotonic() + answer_timeout
    shell.greet(deadline)
    token = secrets.token_hex(8)
    for line in typed(script, token):
        _type(connection, line.encode() + b"\r")
    if shell.await_mark(re.compile(rb"<%s>\r*\n" % token.encode()), time.monotonic() + answer_timeout) is None:
        raise GuestError("the shell at the debug console does not begin with the script")
    end = re.compile(rb"\r*\n<%s:([0-9]{1,3})>" % token.encode())
    match = shell.until(end, output, len(token) + 12)
    return int(match[1]) & 0xFF


def typed(script: str, token: str) -> list[str]:
    """The lines that make a shell run `script` between two marks: `<token>`, and `<token:exit code>`.

    The marks are typed in two parts, since the terminal shows what is typed. Whatever a shell or a terminal would take
    for a key is typed as an octal number.
    """
    safe = "".join(
        char if " " <= char <= "~" and char not in "\\'!" else "".join(f"\\0{byte:03o}" for byte in char.encode())
        for char in script
    )
    pieces = [safe[begin : begin + PIECE] for begin in range(0, len(safe), PIECE)]
    begin, end = f"'<{token[:4]}''{token[4:]}>'", f"'<{token[:4]}''{token[4:]}:%d>'"
    return [
        " k=",
        *(f" k=\"$k\"'{piece}'" for piece in pieces),
        f" printf '\\n'{begin}'\\n'; (eval \"$(printf %b \"$k\")\") </dev/null 2>&1; printf '\\n'{end}'\\n' $?",
    ]


class Shell:
    """The far end of a console: what it has said and nobody has looked at yet."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._said = b""

    def greet(self, deadline: float) -> None:
        """Ask until a shell answers. Raises GuestError."""
        asked = 0
        while time.monotonic() < deadline:
            asked += 1
            token = secrets.token_hex(4)
            _type(self._connection, f" stty -echo; echo '<{token[:2]}''{token[2:]}>'\r".encode())
            found = self.await_mark(re.compile(rb"<%s>\r*\n" % token.encode()), time.monotonic() + ASK_AGAIN)
            if found is not None:
                return
            if NO_SHELL in self._said:
                raise GuestError("the guest image has no shell", hint="kata osbuilder image --debug makes one that has")
        raise GuestError(
            f"no shell answered at the debug console ({asked} questions)", hint="is another client connected to it?"
        )

    def until(self, mark: re.Pattern[bytes], output: Output, keep: int) -> re.Match[bytes]:
        """Read up to a mark; what comes before it goes to `output`, all but the last `keep` bytes at once."""
        while True:
            match = mark.search(self._said)
            ready = match.start() if match else max(0, len(self._said) - keep)
            if match is None and self._said[ready - 1 : ready] == b"\r":
                ready -= 1  # its line end may be still to come
            if ready:
                output.write(self._said[:ready].replace(b"\r\n", b"\n"))
                output.flush()
                self._said = self._said[ready:]
            if match:
                self._said = self._said[match.end() - ready :]
                return match
            self._read()

    def await_mark(self, mark: re.Pattern[bytes], deadline: float) -> re.Match[bytes] | None:
        """Read up to a mark, at most until `deadline`; None when it has not come by then."""
        while (match := mark.search(self._said)) is None:
            self._said = self._said[-KEPT:]
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._connection], [], [], left)[0]:
                return None
            self._read()
        self._said = self._said[match.end() :]
        return match

    def _read(self) -> None:
        data = _read(self._connection)
        if not data:
            raise GuestError("the debug console ended", hint="kata ps -a shows whether the sandbox runs")
        self._said += data


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]

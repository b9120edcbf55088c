"""Run a helper program of the guest with input and output, through the agent's one Reaper.

Called by rooms that drive a program (iptables). Every run has a deadline and a limit of output; the programs are
looked for in fixed folders, never in a PATH that a request could influence. No shell, ever.
"""

from __future__ import annotations

import os
import signal
from typing import NamedTuple

from kata.agent.errors import AgentError, TimedOut, Unsupported
from kata.linux.fds import write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from kata.linux.reaper import Reaper

FOLDERS = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")


class Output(NamedTuple):
    """What a program left: its exit code, and what it wrote."""

    code: int
    stdout: bytes
    stderr: str


def find(name: str, folders: Sequence[str] = FOLDERS) -> str:
    """The path of a program. Raises Unsupported when the guest does not have it."""
    for folder in folders:
        if os.access(f"{folder}/{name}", os.X_OK):
            return f"{folder}/{name}"
    raise Unsupported(f"the guest has no {name}", hint="build a guest image with the package that has it")


def run(reaper: Reaper, argv: Sequence[str], data: bytes, *, timeout: float, limit: int) -> Output:
    """Run `argv` with `data` as its standard input; at most `limit` bytes of output.

    Raises TimedOut after `timeout` seconds (the program is killed), AgentError for more output, OSError.
    """
    # Files in memory instead of pipes: nobody can block on a reader, and no thread is needed for either side.
    source = os.memfd_create("input", os.MFD_CLOEXEC)
    out = os.memfd_create("output", os.MFD_CLOEXEC)
    err = os.memfd_create("errors", os.MFD_CLOEXEC)
    try:
        write_all(source, data)
        os.lseek(source, 0, os.SEEK_SET)
        running = reaper.run(argv, {"PATH": ":".join(FOLDERS), "LANG": "C.UTF-8"}, source, out, err)
        code = running.wait(timeout)
        if code is None:
            running.send(signal.SIGKILL)
            running.wait(timeout)
            raise TimedOut(f"{argv[0]} did not end within {timeout:.0f} s")
        if os.fstat(out).st_size > limit:
            raise AgentError(f"{argv[0]} wrote more than {limit} bytes")
        return Output(code, _content(out, limit), _content(err, 4096).decode("utf-8", "backslashreplace").strip())
    finally:
        for fd in (source, out, err):
            os.close(fd)


def _content(fd: int, limit: int) -> bytes:
    data = b""
    while len(data) < limit and (more := os.pread(fd, limit - len(data), len(data))):
        data += more
    return data

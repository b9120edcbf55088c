"""What a zygote has forked: it waits for the asker's word, takes over what is the asker's, and runs the program."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from typing import NoReturn

from kata.errors import unexpected
from kata.linux.closing import close_all_but
from kata.zygote.message import DESCRIPTORS, GO, READY, Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

GO_TIMEOUT = 10.0
"""Seconds in which the asker says that it is still there."""
DEFAULTED = (signal.SIGCHLD, signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)
ARG_START, ARG_END = 48 - 3, 49 - 3
"""Where /proc/self/stat says that the command line is in memory: fields 48 and 49 (proc(5)), counted from the third,
the first behind the name."""


def become(asker: socket.socket, request: Request, run: Callable[[list[str]], int]) -> NoReturn:
    """Be the process that the asker would have been. Never returns."""
    status = 1
    try:
        # The zygote's socket and its lock, above all.
        close_all_but(0, 1, 2, asker.fileno())
        asker.settimeout(GO_TIMEOUT)
        asker.send(READY)
        said, fds, _, _ = socket.recv_fds(asker, len(GO), DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
        if said == GO and len(fds) == DESCRIPTORS:
            _take_over(fds)
            _settle(request)
            status = run(list(request.argv))
            _end(asker, status)
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
        _end(asker, status)
    except Exception as error:  # noqa: BLE001 - nobody else is there to say it
        fault = unexpected(error)
        os.write(2, f"kata: {fault.layer}: {fault.what} ({fault.hint})\n".encode(errors="replace"))
        _end(asker, status)
    finally:
        os._exit(status)


def _take_over(fds: list[int]) -> None:
    """The asker's folder and streams."""
    folder, *streams = fds
    os.fchdir(folder)
    for target, fd in enumerate(streams):
        os.dup2(fd, target)
    for fd in fds:
        os.close(fd)


def _settle(request: Request) -> None:
    for number in DEFAULTED:
        signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)
    os.umask(request.umask)
    os.environb.clear()
    os.environb.update(request.environ)
    sys.argv[:] = request.argv
    set_title(request.argv)


def set_title(argv: list[str]) -> None:
    """Have others see this command line (ps, pgrep, /proc/<pid>/cmdline) instead of the zygote's.

    The kernel shows the memory in which a program got its arguments; the zygote was given room there. What does not
    fit is cut off, and where this cannot be done (no /proc, no access) the zygote's stays.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        with open("/proc/self/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
        start, end = int(fields[ARG_START]), int(fields[ARG_END])
        words = b"\0".join(word.encode(errors="surrogateescape") for word in argv)
        memory = os.open("/proc/self/mem", os.O_RDWR | os.O_CLOEXEC)
        try:
            # The last byte must be NUL, or the kernel takes the line to go on in the environment (fs/proc/base.c).
            os.pwrite(memory, words[: end - start - 1].ljust(end - start, b"\0"), start)
        finally:
            os.close(memory)
        with open("/proc/self/comm", "wb") as file:
            file.write(os.path.basename(argv[0]).encode(errors="surrogateescape")[:15])


def _end(asker: socket.socket, status: int) -> None:
    """The last word; an asker that is gone does not want it."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    with contextlib.suppress(OSError):
        asker.send(b"%d" % status)

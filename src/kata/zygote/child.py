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
from kata.linux.title import set_title
from kata.zygote.message import DESCRIPTORS, GO, READY, Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

GO_TIMEOUT = 10.0
"""Seconds in which the asker says that it is still there."""
DEFAULTED = (signal.SIGCHLD, signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)


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


def _end(asker: socket.socket, status: int) -> None:
    """The last word; an asker that is gone does not want it."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    with contextlib.suppress(OSError):
        asker.send(b"%d" % status)

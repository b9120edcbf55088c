"""Start the process that holds a sandbox, and hear from it how the start went.

The child is forked from the command itself (one interpreter start), so no thread may exist yet. It reports over
a pipe: one JSON line, either that the container runs or the error that stopped it. The pipe's end without a
line means that the child died.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
from typing import TYPE_CHECKING, NoReturn

from kata.errors import KataError
from kata.sandbox import errors
from kata.sandbox.errors import SandboxError

if TYPE_CHECKING:
    from kata.sandbox.stdio import StdioPaths
    from kata.sandbox.store import Record, Store

REPORT_LIMIT = 256 * 1024
GRACE = 30.0
"""Seconds beyond the guest's boot time-out that the whole start may take."""


def launch(store: Store, record: Record, stdio: StdioPaths, lock: int) -> None:
    """Fork the sandbox's process and wait until its container runs. `lock` is handed over to it.

    Raises the KataError that stopped the start; the sandbox's folder then says so too (or is gone, for one that
    was to be removed at its end).
    """
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        os.close(read_end)
        _become_supervisor(store, record, stdio, lock, write_end)
    os.close(write_end)
    os.close(lock)
    try:
        report = _read_report(read_end, record.sandbox.boot_timeout + GRACE)
    except BaseException:
        # Interrupted or out of time: the child takes its sandbox down on SIGTERM.
        os.kill(pid, signal.SIGTERM)
        raise
    finally:
        os.close(read_end)
    if "error" in report:
        raise _error_from(report)


def _become_supervisor(store: Store, record: Record, stdio: StdioPaths, lock: int, report: int) -> NoReturn:
    status = 1
    try:
        os.setsid()
        store.claim(lock)
        os.chdir("/")
        os.umask(0o077)
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP):
            signal.signal(number, signal.SIG_IGN)
        directory = store.directory(record.sandbox.id)
        log = os.open(directory / "runtime.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        null = os.open(os.devnull, os.O_RDWR)
        for fd, source in ((0, null), (1, log), (2, log)):
            os.dup2(source, fd)
        # Not one descriptor of the command's may live on here: its FIFO ends would keep streams from ending.
        _close_all_but(0, 1, 2, lock, report)

        from kata.supervisor.supervise import supervise

        status = supervise(store, record, stdio, report)
    finally:
        os._exit(status)


def _close_all_but(*kept: int) -> None:
    for entry in os.listdir("/proc/self/fd"):
        if int(entry) not in kept:
            with contextlib.suppress(OSError):
                os.close(int(entry))


def _read_report(fd: int, timeout: float) -> dict[str, str]:
    deadline = time.monotonic() + timeout
    data = b""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while len(data) < REPORT_LIMIT:
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            raise SandboxError(
                f"the container was not running after {timeout:.0f} s",
                hint="look at the sandbox's runtime.log",
            )
        chunk = os.read(fd, 65536)
        if not chunk:
            break
        data += chunk
    if not data:
        raise SandboxError("the sandbox's process died during the start", hint="kata ps -a; its runtime.log says why")
    report: dict[str, str] = json.loads(data)
    return report


def report_error(error: KataError) -> dict[str, str]:
    """An error as the report has it; `_error_from` makes the same error of it on the other side."""
    return {
        "error": type(error).__name__,
        "what": error.what,
        "hint": error.hint,
        "detail": error.detail,
        "layer": error.layer,
    }


def _error_from(report: dict[str, str]) -> KataError:
    kind = getattr(errors, report["error"], SandboxError)
    if not (isinstance(kind, type) and issubclass(kind, KataError)):
        kind = SandboxError
    return kind(report["what"], hint=report["hint"], detail=report["detail"], layer=report["layer"])

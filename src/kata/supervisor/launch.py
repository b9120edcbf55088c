"""Start the process that holds a sandbox, and hear from it how the start and the container's life went.

The child is forked from the command itself (one interpreter start), so no thread may exist yet. It reports over
a pipe, in JSON lines: that the container runs or the error that stopped it; later, how the container ended. The
pipe's end without a line means that the child died.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, NoReturn

from kata.errors import KataError, advice, unexpected
from kata.linux.closing import close_all_but
from kata.linux.title import set_title
from kata.sandbox import errors
from kata.sandbox.errors import SandboxError

if TYPE_CHECKING:
    from collections.abc import Callable

    from kata.sandbox.stdio import StdioPaths
    from kata.sandbox.store import Record, Store

REPORT_LIMIT = 256 * 1024
GRACE = 30.0
"""Seconds beyond the boots' time-outs that the whole start may take."""
END_TIMEOUT = 10.0
"""Seconds that a start that was given up has to take its sandbox down."""


class Launched:
    """A sandbox whose container runs, seen by the command that started it. Context manager.

    The pipe tells the end even when it comes before anybody could have asked for it, and when the record on disk
    is gone already (`--rm`).
    """

    def __init__(self, reports: _Reports) -> None:
        self._reports = reports

    def __enter__(self) -> Launched:
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self._reports.fd)

    def wait(self) -> tuple[int, str]:
        """Block until the container's end is on record and the VM gone: its exit code, and why if not by itself.

        Raises SandboxError when the sandbox's process died without a word.
        """
        end = self._reports.next(None)
        if end is None:
            raise SandboxError("the process that held the sandbox ended", hint="kata ps -a shows what is left of it")
        return int(end["exit_code"]), end["error"]


def launch(
    store: Store, record: Record, stdio: StdioPaths, lock: int, hold: Callable[[], None] = lambda: None
) -> Launched:
    """Fork the sandbox's process and wait until its container runs. `lock` is handed over to it.

    Until then a signal gives the start up. `hold` is called when the container runs: it may keep signals for it.

    Raises the KataError that stopped the start; the sandbox's folder then says so too (or is gone, for one that
    was to be removed at its end).
    """
    with contextlib.ExitStack() as ours:
        ours.callback(os.close, lock)
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        ours.callback(os.close, write_end)
        sys.stdout.flush()
        sys.stderr.flush()
        pid = _fork(read_end)
        if pid == 0:
            os.close(read_end)
            _become_supervisor(store, record, stdio, lock, write_end)
    reports = _Reports(read_end)
    try:
        with _ending_on_signals():
            boots = 2 if record.sandbox.template else 1  # another's making of the template, and then one's own boot
            reports.started(record.sandbox.boot_timeout * boots + GRACE)
            hold()
    except BaseException:
        os.close(read_end)
        # Interrupted or out of time: the child takes its sandbox down on SIGTERM. One that failed is ending anyway.
        _end(pid)
        raise
    return Launched(reports)


def _fork(read_end: int) -> int:
    try:
        return os.fork()
    except OSError as error:
        os.close(read_end)
        raise SandboxError(
            f"no process can be started for the sandbox: {error.strerror}", hint=advice(error)
        ) from error


@contextlib.contextmanager
def _ending_on_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind the stack (exit code 128 + n), as SIGINT does: nobody would get what starts.

    One that is ignored stays so, as nohup(1) wants it.
    """

    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    ours = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _end(pid: int) -> None:
    """Have our child take its sandbox down, and wait for that a while: whoever looks next sees it gone."""
    pidfd = os.pidfd_open(pid)
    try:
        os.kill(pid, signal.SIGTERM)
        select.select([pidfd], [], [], END_TIMEOUT)
    finally:
        os.close(pidfd)


def _become_supervisor(store: Store, record: Record, stdio: StdioPaths, lock: int, report: int) -> NoReturn:
    status = 1
    try:
        os.setsid()
        set_title(["kata-supervisor", record.sandbox.id])  # the command's words may hold passwords (`-e`)
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
        close_all_but(0, 1, 2, lock, report)

        from kata.supervisor.supervise import supervise

        status = supervise(store, record, stdio, report)
    except Exception as error:  # noqa: BLE001 - whatever it is, the command that waits has to hear of it
        failure = error if isinstance(error, KataError) else unexpected(error)
        finish(store, record, 125, failure.what)
        os.write(report, json.dumps(report_error(failure)).encode() + b"\n")
    finally:
        os._exit(status)


def finish(store: Store, record: Record, code: int | None, error: str) -> None:
    """Put the container's end on record, or remove the sandbox where that was wished."""
    record.status, record.finished_at, record.processes = "stopped", time.time(), []
    record.exit_code, record.error = code, error
    try:
        if record.auto_remove:
            store.remove(record.sandbox.id)
        else:
            store.write(record)
    except OSError:
        pass  # a full disk: the folder still says "running", and its free lock says otherwise


class _Reports:
    """The reading end of the pipe, line by line."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._rest = b""

    def started(self, timeout: float) -> None:
        """Return when the container runs, within `timeout` seconds; raise what kept it from running otherwise."""
        try:
            report = self.next(timeout)
        except TimeoutError:
            raise SandboxError(
                f"the container was not running after {timeout:.0f} s", hint="look at the sandbox's runtime.log"
            ) from None
        if report is None:
            raise SandboxError(
                "the sandbox's process died during the start", hint="kata ps -a; its runtime.log says why"
            )
        if report["status"] == "failed":
            raise _error_from(report)

    def next(self, timeout: float | None) -> dict[str, str] | None:
        """The next line, None when there will be none; TimeoutError after `timeout` seconds (None: no limit)."""
        deadline = None if timeout is None else time.monotonic() + timeout
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        while b"\n" not in self._rest:
            left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
            if not poll.poll(left):
                raise TimeoutError
            chunk = os.read(self.fd, 65536)
            if not chunk or len(self._rest) > REPORT_LIMIT:
                return None
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        report: dict[str, str] = json.loads(line)
        return report


def report_error(error: KataError) -> dict[str, str]:
    """An error as the report has it; `_error_from` makes the same error of it on the other side."""
    return {
        "status": "failed",
        "error": type(error).__name__,
        "what": error.what,
        "hint": error.hint,
        "detail": error.detail,
        "layer": error.layer,
    }


def report_end(code: int, error: str) -> dict[str, str]:
    """How the container ended, as `Launched.wait` gives it."""
    return {"status": "ended", "exit_code": str(code), "error": error}


def _error_from(report: dict[str, str]) -> KataError:
    kind = getattr(errors, report["error"], SandboxError)
    if not (isinstance(kind, type) and issubclass(kind, KataError)):
        kind = SandboxError
    return kind(report["what"], hint=report["hint"], detail=report["detail"], layer=report["layer"])

"""The life of the process that holds one sandbox: start, serve, wait for the end, clear up, record.

It holds the sandbox's lock for its whole life. SIGTERM makes it take the sandbox down in order, in the middle of
the start too; after SIGKILL the VMM ends by its parent-death signal, and the next `kata` command clears up the
rest (`sandbox.reconcile`).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
import traceback
from typing import TYPE_CHECKING

from kata.errors import KataError, unexpected
from kata.linux.flag import Flag
from kata.linux.mounts import own_namespace
from kata.log import Logger
from kata.management.durations import Durations, Timed
from kata.protocol.server import Server
from kata.protocol.transport import listen
from kata.sandbox import health
from kata.sandbox.errors import ConflictError, GuestError
from kata.sandbox.process import LOST_EXIT_CODE
from kata.sandbox.reconcile import remove_vm_directory
from kata.sandbox.sandbox import Sandbox
from kata.sandbox.stdio import LogSink, StdioPaths, client_streams
from kata.sandbox.store import living
from kata.supervisor.client import SOCKET
from kata.supervisor.launch import finish, report_end, report_error
from kata.supervisor.service import ControlService, to_status

if TYPE_CHECKING:
    from kata.sandbox.container import Container
    from kata.sandbox.store import Record, Store

HEALTH_TIMEOUT = 90.0
"""Seconds that an agent may take to say that it is there, as the configuration's default has it for pods."""
TELL_TIMEOUT = 2.0
"""Seconds for clients to be told of the container's end before the control socket closes."""


class _InterruptedStart(BaseException):
    """SIGTERM during the start. No `except KataError` on the way may take it for a failure that it knows."""


def supervise(store: Store, record: Record, stdio: StdioPaths, report: int) -> int:
    """Run the sandbox of `record` to its end; `report` is the pipe to the command that started us."""
    log = Logger(2, sandbox=record.sandbox.id[:12])
    ended = Flag()
    agent_rpcs = Durations()
    sandbox = Sandbox(record.sandbox, log, agent_rpcs.observe)
    try:
        if record.sandbox.share:
            own_namespace()
        _interrupt_on_signal(ended)
        container = _start(store, record, sandbox, stdio, ended)
        ended.set_on(signal.SIGTERM)
    except BaseException as error:  # noqa: BLE001 - whatever it is, the sandbox comes down and it is reported
        return _give_up(store, record, sandbox, error, log, report)
    service, rpcs = ControlService(sandbox, container), Durations()
    with (
        Server({"kata.control.v1.Control": Timed(service, rpcs)}, to_status) as server,
        _management(sandbox, rpcs, agent_rpcs, log),
    ):
        listener = listen(f"unix://{store.directory(record.sandbox.id) / SOCKET}")
        threading.Thread(target=server.serve, args=(listener,), name="kata-control", daemon=True).start()
        threading.Thread(target=_watch_health, args=(sandbox, log), name="health", daemon=True).start()
        # Not before: whoever reads that it runs may ask it for something.
        record.status, record.started_at, record.phases = "running", time.time(), sandbox.phases
        try:
            store.write(record)
        except OSError as error:
            return _give_up(store, record, sandbox, error, log, report)
        _report(report, {"status": "running"})
        ended.wait()
        why = sandbox.explain(container.init.error)
        _end(sandbox, container, log)
        finish(store, record, container.init.exit_code, why)
        service.recorded.set()
        _report(report, report_end(container.init.exit_code or 0, why))
        service.drain(TELL_TIMEOUT)
    return 0


def _give_up(store: Store, record: Record, sandbox: Sandbox, error: BaseException, log: Logger, report: int) -> int:
    """Take down what was begun, and tell why; the exit code."""
    sandbox.stop(graceful=False)
    remove_vm_directory(record.sandbox.id)  # an interruption may have come between a thing and its undoing
    failure = _failure(error) if not sandbox.failure else GuestError(sandbox.failure)
    log.error("start failed", error=failure.what, detail=failure.detail)
    finish(store, record, 125, failure.what)
    _report(report, report_error(failure))
    return 1


def _watch_health(sandbox: Sandbox, log: Logger) -> None:
    """A guest that is silent for good has to go, or its container would seem to run for ever."""
    reason = health.watch(sandbox, HEALTH_TIMEOUT, log)
    if not sandbox.wait_end(0):
        sandbox.lose(reason)


def _management(
    sandbox: Sandbox, rpcs: Durations, agent_rpcs: Durations, log: Logger
) -> contextlib.AbstractContextManager[object]:
    """The sandbox's management socket; a container runs without one where there is no room for it."""
    from kata.management.serve import serve

    try:
        return serve(sandbox, sandbox.config.id, rpcs, agent_rpcs, log)
    except OSError as error:
        log.warn("there is no management socket", error=error)
        return contextlib.nullcontext()


def _start(store: Store, record: Record, sandbox: Sandbox, stdio: StdioPaths, ended: Flag) -> Container:
    sandbox.start()
    record.processes = living(sandbox.pids)
    record.accelerator = sandbox.accelerator
    store.write(record)
    container = sandbox.create_container(record.container)
    log = LogSink(os.fspath(store.directory(record.sandbox.id) / "container.log"))
    container.init.connect(client_streams(stdio, [log]))
    container.start(lambda _: ended.set())
    return container


def _end(sandbox: Sandbox, container: Container, log: Logger) -> None:
    """Take the sandbox down; a container that still runs (we got SIGTERM) is stopped with it."""
    log.info("container ended", exit_code=container.init.exit_code)
    sandbox.stop()
    if container.init.wait(5.0) is None:
        container.init.exit_code = LOST_EXIT_CODE


def _interrupt_on_signal(ended: Flag) -> None:
    """During the start SIGTERM ends it, by an exception that undoes what was begun; a second one does nothing."""

    def interrupt(*_: object) -> None:
        if not ended.is_set():
            ended.set()
            raise _InterruptedStart

    signal.signal(signal.SIGTERM, interrupt)


def _report(fd: int, message: dict[str, str]) -> None:
    try:
        os.write(fd, json.dumps(message).encode() + b"\n")
    except OSError:
        pass  # the command that started us is gone, or never waits for the end; the sandbox runs on


def _failure(error: BaseException) -> KataError:
    """What to tell of an error. For a fault of our own the user gets a sentence, the log gets the traceback."""
    if isinstance(error, KataError):
        return error
    if isinstance(error, _InterruptedStart):
        return ConflictError("the start was interrupted")
    with contextlib.suppress(OSError):  # the log's disk may be what is full
        traceback.print_exception(error)
    return unexpected(error)

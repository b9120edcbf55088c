"""The control service: a few lines a method, each a call into the sandbox core.

Errors of the core become RPC codes here and nowhere else; the client turns them back (`client.py`).
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

from kata.errors import KataError
from kata.protocol.generated import control_pb2
from kata.protocol.messages import message
from kata.protocol.status import Code, RpcError, printable, to_message
from kata.sandbox.errors import (
    CommandNotFoundError,
    CommandNotRunnableError,
    ConfigError,
    ConflictError,
    GuestError,
    NotFoundError,
    SandboxError,
)
from kata.sandbox.stdio import StdioPaths, client_streams

if TYPE_CHECKING:
    from google.protobuf.any_pb2 import Any as AnyMessage

    from kata.oci.spec import Process as ProcessSpec
    from kata.protocol.server import Call
    from kata.sandbox.container import Container
    from kata.sandbox.sandbox import Sandbox

SIGKILL = 9
SIGNAL_TIMEOUT, KILL_TIMEOUT = 5.0, 5.0
"""Seconds for a guest to take a signal, and to say what came of SIGKILL, before it is ended whole."""
RECORD_TIMEOUT = 15.0

CODES: tuple[tuple[type[KataError], Code], ...] = (
    (NotFoundError, Code.NOT_FOUND),
    (ConflictError, Code.FAILED_PRECONDITION),
    (ConfigError, Code.INVALID_ARGUMENT),
    (CommandNotFoundError, Code.OUT_OF_RANGE),
    (CommandNotRunnableError, Code.PERMISSION_DENIED),
    (GuestError, Code.ABORTED),
)
"""First match wins; everything else is INTERNAL. The client reads this table backwards."""
FAILURE = control_pb2.Failure.DESCRIPTOR.full_name


class ControlService:
    """One sandbox with its one container, for local clients.

    The end of the container is told only once `recorded` is set: whoever hears of it finds the record true, the
    VM gone and its traces removed.
    """

    def __init__(self, sandbox: Sandbox, container: Container) -> None:
        self._sandbox = sandbox
        self._container = container
        self.recorded = threading.Event()
        self._waiters = 0
        self._idle = threading.Condition()

    def wait(self, request: control_pb2.WaitRequest, call: Call) -> control_pb2.WaitResponse:
        """Blocks until the process ended; an exec is forgotten once its end was told."""
        process = self._container.process(request.exec_id)
        init = process is self._container.init
        with self._waiting():
            ended = self.recorded.wait if init else lambda seconds: process.wait(seconds) is not None
            while not ended(1.0) and not call.cancelled.is_set():
                pass
            if not init and process.exit_code is not None:
                self._container.forget(process.exec_id)
            return control_pb2.WaitResponse(exit_code=process.exit_code or 0, error=process.error)

    def signal(self, request: control_pb2.SignalRequest, call: Call) -> control_pb2.Done:
        """Send a signal to a process."""
        self._container.process(request.exec_id).signal(request.signal)
        return control_pb2.Done()

    def exec(self, request: control_pb2.ExecRequest, call: Call) -> control_pb2.Done:
        """Start one more process in the container."""
        spec = cast("ProcessSpec", json.loads(request.process))
        stdio = StdioPaths(request.stdin, request.stdout, request.stderr)
        self._container.exec(request.exec_id, spec, client_streams(stdio))
        return control_pb2.Done()

    def resize(self, request: control_pb2.ResizeRequest, call: Call) -> control_pb2.Done:
        """Tell a process's terminal its size."""
        self._container.process(request.exec_id).resize(request.rows, request.columns)
        return control_pb2.Done()

    def close_stdin(self, request: control_pb2.CloseStdinRequest, call: Call) -> control_pb2.Done:
        """End a process's input."""
        self._container.process(request.exec_id).close_stdin()
        return control_pb2.Done()

    def stats(self, request: control_pb2.StatsRequest, call: Call) -> control_pb2.StatsResponse:
        """What the container uses now."""
        stats = self._sandbox.agent.stats(self._container.id).cgroup_stats
        return control_pb2.StatsResponse(
            cpu_usage_ns=stats.cpu_stats.cpu_usage.total_usage,
            memory_usage_bytes=stats.memory_stats.usage.usage,
            memory_limit_bytes=stats.memory_stats.usage.limit,
            pids=stats.pids_stats.current,
        )

    def stop(self, request: control_pb2.StopRequest, call: Call) -> control_pb2.Done:
        """Signal the container, wait, kill it; returns when it has ended. A guest that hangs is ended whole."""
        with self._waiting():
            self._end(request.signal, request.timeout_ms / 1000)
            self.recorded.wait(RECORD_TIMEOUT)
        return control_pb2.Done()

    def agent_call(self, request: control_pb2.AgentCallRequest, call: Call) -> control_pb2.AgentCallResponse:
        """One request to the agent, passed on as it is. Nothing is refused: the socket is the owner's alone.

        A caller that goes away cannot call it back: the agent's answer is then dropped when it comes.
        """
        timeout = request.timeout_ms / 1000 or None
        try:
            payload = self._sandbox.agent.forward(request.method, request.payload, timeout)
        except RpcError as error:
            return control_pb2.AgentCallResponse(status=to_message(error))
        return control_pb2.AgentCallResponse(payload=payload)

    def drain(self, timeout: float) -> None:
        """Wait until everyone who waited for an exit has been told, at most `timeout` seconds."""
        with self._idle:
            self._idle.wait_for(lambda: self._waiters == 0, timeout)

    def _end(self, signal: int, timeout: float) -> None:
        init = self._container.init
        for number, seconds in ((signal, timeout), (SIGKILL, KILL_TIMEOUT)):
            try:
                init.signal(number, SIGNAL_TIMEOUT)
            except ConflictError:
                return
            except SandboxError:
                if number != SIGKILL:
                    continue
            if init.wait(seconds) is not None:
                return
        self._sandbox.stop(graceful=False)

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[None]:
        with self._idle:
            self._waiters += 1
        try:
            yield
        finally:
            with self._idle:
                self._waiters -= 1
                self._idle.notify_all()


def to_status(error: BaseException) -> RpcError:
    """The one mapping of this process's errors to what goes over the control socket."""
    if isinstance(error, RpcError):
        return error
    if isinstance(error, KataError):
        code = next((code for kind, code in CODES if isinstance(error, kind)), Code.INTERNAL)
        return RpcError(code, error.what, [_failure(error)])
    return RpcError(Code.INTERNAL, f"{type(error).__name__}: {error}")


def _failure(error: KataError) -> AnyMessage:
    """What a user is to hear beside the sentence."""
    told = control_pb2.Failure(hint=printable(error.hint), detail=printable(error.detail), layer=error.layer)
    make = cast("type[AnyMessage]", message("google.protobuf.Any"))
    return make(type_url=FAILURE, value=told.SerializeToString())

"""How a `kata` command reaches the process that holds a sandbox."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, cast

from kata.protocol.client import Client
from kata.protocol.generated import control_pb2
from kata.protocol.status import Code, RpcError, from_message
from kata.protocol.transport import dial
from kata.sandbox.errors import ConflictError, ContainerError, SandboxError
from kata.supervisor.service import CODES, FAILURE

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from google.protobuf.message import Message

    from kata.errors import KataError
    from kata.oci.spec import Process
    from kata.sandbox.stdio import StdioPaths
    from kata.sandbox.store import Record

SOCKET = "control.sock"
DIAL_TIMEOUT = 5.0
CALL_TIMEOUT = 30.0
AGENT_GRACE = 5.0
"""Seconds that a call to the agent may take on the way, beyond the agent's own."""


def require_own(record: Record) -> None:
    """Raise ConflictError for a sandbox that another program manages; the hint names its command."""
    if record.manager == "kata":
        return
    container = record.sandbox.id
    namespace = record.namespace or "NAMESPACE"
    tool = f"ctr --namespace {namespace} task"
    others = "; crictl for pods of Kubernetes" if namespace == "k8s.io" else ""
    raise ConflictError(
        f"sandbox {container} belongs to {record.manager}, and only that may change it",
        hint=f"{tool} kill, {tool} delete, {tool} exec, {tool} attach with {container}{others}",
    )


class Control:
    """The control service of one sandbox; a context manager."""

    def __init__(self, directory: Path) -> None:
        try:
            self._client = Client(dial(f"unix://{directory / SOCKET}", DIAL_TIMEOUT))
        except (OSError, RpcError) as error:
            raise ConflictError("the sandbox is not running", hint="kata ps -a shows what it did") from error

    def __enter__(self) -> Control:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._client.close()

    def wait(self, exec_id: str = "") -> tuple[int, str]:
        """Block until the process ended: its exit code, and why where it did not end by itself."""
        response = self._call("Wait", control_pb2.WaitRequest(exec_id=exec_id), None)
        answer = cast(control_pb2.WaitResponse, response)
        return answer.exit_code, answer.error

    def signal(self, number: int, exec_id: str = "") -> None:
        """Send a signal to a process."""
        self._call("Signal", control_pb2.SignalRequest(exec_id=exec_id, signal=number))

    def exec(self, exec_id: str, process: Process, stdio: StdioPaths) -> None:
        """Start one more process in the container."""
        request = control_pb2.ExecRequest(
            exec_id=exec_id,
            process=json.dumps(process).encode(),
            stdin=stdio.stdin,
            stdout=stdio.stdout,
            stderr=stdio.stderr,
        )
        self._call("Exec", request, 90.0)

    def resize(self, rows: int, columns: int, exec_id: str = "") -> None:
        """Tell a process's terminal its size."""
        self._call("Resize", control_pb2.ResizeRequest(exec_id=exec_id, rows=rows, columns=columns))

    def stats(self) -> control_pb2.StatsResponse:
        """What the container uses now."""
        return cast(control_pb2.StatsResponse, self._call("Stats", control_pb2.StatsRequest()))

    def stop(self, signal: int, timeout: float) -> None:
        """End the container, by force after `timeout` seconds. Returns when it has ended."""
        request = control_pb2.StopRequest(signal=signal, timeout_ms=int(timeout * 1000))
        self._call("Stop", request, timeout + CALL_TIMEOUT)

    def agent_call(self, name: str, payload: bytes, timeout: float | None) -> bytes:
        """Have a request passed on to the guest's agent, `service/Method` and its message; the reply's message.

        Raises RpcError: what the agent says; SandboxError and ConflictError when there is no sandbox to ask in.
        `timeout` in seconds is the agent's, None for no limit.
        """
        limit = 0 if timeout is None else max(1, int(timeout * 1000))
        request = control_pb2.AgentCallRequest(method=name, payload=payload, timeout_ms=limit)
        # The agent's own answer to a passed deadline says more than ours would.
        answer = self._call("AgentCall", request, None if timeout is None else timeout + AGENT_GRACE)
        response = cast(control_pb2.AgentCallResponse, answer)
        if response.HasField("status"):
            raise from_message(response.status)
        return response.payload

    def _call(self, method: str, request: Message, timeout: float | None = CALL_TIMEOUT) -> Message:
        try:
            return self._client.call(f"kata.control.v1.Control/{method}", request, timeout=timeout)
        except RpcError as error:
            raise _error(error) from error


def _error(error: RpcError) -> KataError:
    told = control_pb2.Failure()
    for entry in error.details:
        if entry.type_url == FAILURE:
            told.ParseFromString(entry.value)
    for kind, code in CODES:
        if code == error.code:
            return kind(error.message, hint=told.hint, detail=told.detail, layer=told.layer)
    if error.code == Code.UNAVAILABLE:
        return SandboxError("the process that held the sandbox ended", hint="kata ps -a shows what is left of it")
    return ContainerError(error.message, hint=told.hint, detail=told.detail, layer=told.layer)

"""containerd's task service: a few lines a method, each one call into `pod` or `task`.

Errors of all rooms become RPC codes in `to_status` and nowhere else.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, cast

from kata.errors import KataError
from kata.oci.errors import SpecError
from kata.protocol.generated.host import task_pb2
from kata.protocol.messages import message
from kata.protocol.status import Code, RpcError
from kata.sandbox import errors
from kata.shim.deletions import Deletions
from kata.shim.events import as_any, timestamp
from kata.shim.kind import KindError
from kata.version import __version__

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from kata.linux.flag import Flag
    from kata.oci.spec import LinuxResources
    from kata.oci.spec import Process as ProcessSpec
    from kata.protocol.server import Call
    from kata.shim.serve import Pods

CODES: tuple[tuple[type[KataError], Code], ...] = (
    (errors.NotFoundError, Code.NOT_FOUND),
    (errors.ExistsError, Code.ALREADY_EXISTS),
    (errors.ConflictError, Code.FAILED_PRECONDITION),
    (errors.ConfigError, Code.INVALID_ARGUMENT),
    (KindError, Code.INVALID_ARGUMENT),
    (SpecError, Code.INVALID_ARGUMENT),
)
"""First match wins; everything else is UNKNOWN, as runc's shim has it."""
MESSAGE_LIMIT = 16 << 10
"""Characters of an error: a guest's console has some thousands."""


class TaskService:
    """`containerd.task.v2.Task` and its version 3. `stop` is set when the process is to end."""

    def __init__(self, pods: Pods, stop: Flag) -> None:
        self._pods = pods
        self._stop = stop
        self._deletions = Deletions(stop.set)

    def state(self, request: task_pb2.StateRequest, call: Call) -> task_pb2.StateResponse:
        """What a process is and does."""
        return self._pods.get().state(request.id, request.exec_id)

    def create(self, request: task_pb2.CreateTaskRequest, call: Call) -> task_pb2.CreateTaskResponse:
        """Create a task, and its sandbox when it is the first."""
        if request.checkpoint:
            raise RpcError(Code.UNIMPLEMENTED, "a virtual machine's containers cannot be restored from a checkpoint")
        return task_pb2.CreateTaskResponse(pid=self._pods.get().create(request).pid)

    def start(self, request: task_pb2.StartRequest, call: Call) -> task_pb2.StartResponse:
        """Start a task or a process that was added to it."""
        if not request.exec_id:
            return task_pb2.StartResponse(pid=self._pods.get().start(request.id).pid)
        task = self._pods.get().task(request.id)
        task.start_added(request.exec_id)
        return task_pb2.StartResponse(pid=task.pid)

    def delete(self, request: task_pb2.DeleteRequest, call: Call) -> task_pb2.DeleteResponse:
        """Forget a process that has ended, or a task with all that it had."""
        pod = self._pods.get()
        task = pod.task(request.id)
        if request.exec_id:
            process = task.forget(request.exec_id)
        else:
            with self._deletions.of(request.id):
                process = pod.delete(request.id, lambda: not call.session.gone)
            self._deletions.check(lambda: pod.idle)
        exited_at = timestamp(process.exited_at or 0.0)
        return task_pb2.DeleteResponse(pid=task.pid, exit_status=process.exit_code or 0, exited_at=exited_at)

    def pids(self, request: task_pb2.PidsRequest, call: Call) -> task_pb2.PidsResponse:
        """The host process that stands for the task."""
        task = self._pods.get().task(request.id)
        return task_pb2.PidsResponse(processes=[task_pb2.ProcessInfo(pid=task.pid)])

    def pause(self, request: task_pb2.PauseRequest, call: Call) -> Message:
        """Freeze a task."""
        self._pods.get().pause(request.id)
        return _empty()

    def resume(self, request: task_pb2.ResumeRequest, call: Call) -> Message:
        """Let a frozen task go on."""
        self._pods.get().resume(request.id)
        return _empty()

    def checkpoint(self, request: task_pb2.CheckpointTaskRequest, call: Call) -> Message:
        """Refused: a container's state is in its guest's kernel."""
        raise RpcError(Code.UNIMPLEMENTED, "a virtual machine's containers cannot be checkpointed")

    def kill(self, request: task_pb2.KillRequest, call: Call) -> Message:
        """Send a signal to a process; `all` is what a SIGKILL to the first process means anyway."""
        self._pods.get().task(request.id).kill(request.exec_id, request.signal)
        return _empty()

    def exec(self, request: task_pb2.ExecProcessRequest, call: Call) -> Message:
        """Add a process to a task; it is started by `start`."""
        spec = cast("ProcessSpec", _json(request.spec.value, "the process"))
        spec["terminal"] = request.terminal
        names = (request.stdin, request.stdout, request.stderr)
        self._pods.get().task(request.id).add(request.exec_id, spec, names)
        return _empty()

    def resize_pty(self, request: task_pb2.ResizePtyRequest, call: Call) -> Message:
        """Tell a terminal its size."""
        self._pods.get().task(request.id).resize(request.exec_id, request.height, request.width)
        return _empty()

    def close_io(self, request: task_pb2.CloseIORequest, call: Call) -> Message:
        """End a process's input once what the client has written is through. Never waits."""
        process = self._pods.get().task(request.id).entry(request.exec_id).process
        if request.stdin:
            process.finish_stdin()
        return _empty()

    def update(self, request: task_pb2.UpdateTaskRequest, call: Call) -> Message:
        """Change a task's limits."""
        resources = cast("LinuxResources", _json(request.resources.value, "the resources"))
        self._pods.get().update(request.id, resources)
        return _empty()

    def wait(self, request: task_pb2.WaitRequest, call: Call) -> task_pb2.WaitResponse:
        """Blocks until a process has ended."""
        process = self._pods.get().task(request.id).entry(request.exec_id).process
        while process.wait(1.0) is None and not call.cancelled.is_set():
            pass
        exited_at = timestamp(process.exited_at or 0.0)
        return task_pb2.WaitResponse(exit_status=process.exit_code or 0, exited_at=exited_at)

    def stats(self, request: task_pb2.StatsRequest, call: Call) -> task_pb2.StatsResponse:
        """What a task uses."""
        from kata.shim import stats

        counters = self._pods.get().task(request.id).container.stats()
        url, metrics = stats.metrics(counters, cgroup2=stats.host_has_cgroup2())
        return task_pb2.StatsResponse(stats=as_any(metrics, url))

    def connect(self, request: task_pb2.ConnectRequest, call: Call) -> task_pb2.ConnectResponse:
        """Who serves this task."""
        return task_pb2.ConnectResponse(shim_pid=os.getpid(), task_pid=self._pods.pid, version=__version__)

    def shutdown(self, request: task_pb2.ShutdownRequest, call: Call) -> Message:
        """End this process, unless it still has tasks."""
        pod = self._pods.get()
        if pod.idle or request.now:
            self._stop.set()
        else:
            self._deletions.shut_down_after([task.id for task in pod.tasks])
        return _empty()


def to_status(error: BaseException) -> RpcError:
    """The one mapping of this process's errors to what containerd hears."""
    if isinstance(error, RpcError):
        return error
    if isinstance(error, KataError):
        code = next((code for kind, code in CODES if isinstance(error, kind)), Code.UNKNOWN)
        hint = f" ({error.hint})" if error.hint else ""
        detail = f"\n{error.detail}" if error.detail else ""
        return RpcError(code, _short(f"kata: {error.layer}: {error.what}{hint}{detail}"))
    return RpcError(Code.INTERNAL, _short(f"kata: an unexpected fault: {type(error).__name__}: {error}"))


def _short(text: str) -> str:
    """What an error quotes may be a tenant's word of megabytes."""
    return text if len(text) <= MESSAGE_LIMIT else f"{text[:MESSAGE_LIMIT]}…"


def _json(data: bytes, what: str) -> dict[str, object]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RpcError(Code.INVALID_ARGUMENT, f"{what} in the request is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise RpcError(Code.INVALID_ARGUMENT, f"{what} in the request is no object")
    return value


def _empty() -> Message:
    return message("google.protobuf.Empty")()

"""One task as containerd sees it: a container, its processes, their streams and their ends.

Made by `pod`. It decides in which order events go out: a start is told before its exit, and an exit before anything
is taken down. No lock is held over a call to the guest.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, NamedTuple

from kata.errors import KataError
from kata.oci.ids import LONGEST, is_id
from kata.protocol.generated.host import events_pb2, task_pb2
from kata.sandbox.errors import ConfigError, ConflictError
from kata.sandbox.process import ProcessState
from kata.shim import stdio
from kata.shim.events import timestamp

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.message import Message

    from kata.oci.spec import Process as ProcessSpec
    from kata.sandbox.container import Container
    from kata.sandbox.process import Process
    from kata.sandbox.stdio import Streams
    from kata.shim.hooks import HostHooks
    from kata.shim.kind import Kind
    from kata.shim.standin import StandIn

SIGKILL, SIGTERM = 9, 15
ANNOUNCE_TIMEOUT = 30.0
"""Seconds that an exit waits for its start to be told."""
KILL_TIMEOUT = 10.0

STATES = {
    ProcessState.CREATED: task_pb2.CREATED,
    ProcessState.RUNNING: task_pb2.RUNNING,
    ProcessState.STOPPED: task_pb2.STOPPED,
}


class StdioNames(NamedTuple):
    """What containerd calls a process's streams."""

    stdin: str = ""
    stdout: str = ""
    stderr: str = ""


class Entry:
    """One process of a task: what containerd knows of it beside the process itself."""

    def __init__(self, process: Process, names: StdioNames) -> None:
        self.process = process
        self.names = names
        self.size: tuple[int, int] | None = None
        """Rows and columns that a client asked for before the process was there."""
        self.announced = threading.Event()
        self.starting = threading.Lock()


class Creation:
    """A task that is being created. Only a containerd that was started meanwhile asks for one; it may want it away."""

    def __init__(self, request: task_pb2.CreateTaskRequest) -> None:
        self.ended = threading.Event()
        self._request = request

    def state(self, pid: int) -> task_pb2.StateResponse:
        """What to say of it until then."""
        asked = self._request
        return task_pb2.StateResponse(
            id=asked.id,
            bundle=asked.bundle,
            pid=pid,
            status=task_pb2.CREATED,
            stdin=asked.stdin,
            stdout=asked.stdout,
            stderr=asked.stderr,
            terminal=asked.terminal,
        )


class Task:
    """A container under containerd. `told` publishes an event, `ended` is called once its first process is gone.

    `pid` is that of its `stand_in` if it has one. `release` gives back what it has on the host besides its root.
    """

    def __init__(
        self,
        container: Container,
        bundle: str,
        kind: Kind,
        names: StdioNames,
        *,
        namespace: str,
        pid: int,
        stand_in: StandIn | None = None,
        hooks: HostHooks,
        told: Callable[[Message], None],
        ended: Callable[[Task], None],
    ) -> None:
        self.id = container.id
        self.container = container
        self.bundle = bundle
        self.kind = kind
        self.pid = stand_in.pid if stand_in else pid
        self.hooks = hooks
        self._stand_in = stand_in
        self._namespace = namespace
        self._told = told
        self._ended = ended
        self._lock = threading.Lock()
        self._entries = {container.id: Entry(container.init, names)}

    def entry(self, exec_id: str) -> Entry:
        """A process of the task. Raises NotFoundError."""
        process = self.container.process(exec_id)
        with self._lock:
            return self._entries[process.exec_id]

    def start(self) -> None:
        """Connect the first process's streams and let it run. Raises KataError."""
        entry = self.entry("")
        with entry.starting:
            if entry.process.state is not ProcessState.CREATED:
                raise ConflictError(f"task {self.id} has been started already")
            self._connect(entry)
            try:
                self.container.start(self._on_exit)
            except BaseException:
                entry.process.disconnect()
                raise
            self._resize(entry)
            self._told(events_pb2.TaskStart(container_id=self.id, pid=self.pid))
            entry.announced.set()
        self.hooks.started(self.pid)

    def add(self, exec_id: str, spec: ProcessSpec, names: tuple[str, str, str]) -> None:
        """Remember a process that will be started later; `names` are its streams'. Raises KataError."""
        if not is_id(exec_id):
            raise ConfigError(f"{exec_id[:LONGEST]!r} is no id of a process")
        stdio.require_fifos(self.kind, *names)
        process = self.container.add(exec_id, spec)
        entry = Entry(process, StdioNames(*names))
        box = spec.get("consoleSize", {})
        if box.get("height") and box.get("width"):
            entry.size = box["height"], box["width"]
        with self._lock:
            self._entries[exec_id] = entry
        self._told(events_pb2.TaskExecAdded(container_id=self.id, exec_id=exec_id))

    def start_added(self, exec_id: str) -> None:
        """Start a process that was added. Raises KataError."""
        entry = self.entry(exec_id)
        with entry.starting:
            if entry.process.state is not ProcessState.CREATED:
                raise ConflictError(f"process {exec_id} has been started already")
            self.container.start_added(entry.process, self._streams(entry), self._on_exit)
            self._resize(entry)
            self._told(events_pb2.TaskExecStarted(container_id=self.id, exec_id=exec_id, pid=self.pid))
            entry.announced.set()

    def state(self, exec_id: str) -> task_pb2.StateResponse:
        """What containerd shows of a process."""
        entry = self.entry(exec_id)
        process = entry.process
        status = STATES[process.state]
        if status == task_pb2.RUNNING and self.container.paused:
            status = task_pb2.PAUSED
        response = task_pb2.StateResponse(
            id=self.id,
            bundle=self.bundle,
            pid=self.pid,
            status=status,
            stdin=entry.names.stdin,
            stdout=entry.names.stdout,
            stderr=entry.names.stderr,
            terminal=process.terminal,
            exec_id=exec_id,
        )
        if process.state is ProcessState.STOPPED:
            response.exit_status = process.exit_code or 0
            response.exited_at.CopyFrom(timestamp(process.exited_at or 0.0))
        return response

    def kill(self, exec_id: str, number: int) -> None:
        """Send a signal. One that ends a process which has ended is fine; one that was never started ends at once."""
        entry = self.entry(exec_id)
        process = entry.process
        if process.state is ProcessState.STOPPED:
            if number in (SIGKILL, SIGTERM):
                return
            raise ConflictError(f"process {exec_id or self.id} has ended")
        if process.state is ProcessState.CREATED:
            self._kill_unstarted(entry, exec_id, number)
            return
        process.signal(number)

    def abandon(self) -> None:
        """End the first process if it was never started, whatever its guest says to that: it may be gone, or lie."""
        entry = self.entry("")
        with contextlib.suppress(KataError):
            if entry.process.state is ProcessState.CREATED:
                self._kill_unstarted(entry, "", SIGKILL)

    def resize(self, exec_id: str, rows: int, columns: int) -> None:
        """Tell a terminal its size, now or once its process is there."""
        entry = self.entry(exec_id)
        entry.size = rows, columns
        if entry.process.state is ProcessState.RUNNING:
            entry.process.resize(rows, columns)

    def forget(self, exec_id: str) -> Process:
        """Drop an added process that does not run. Raises ConflictError."""
        entry = self.entry(exec_id)
        if entry.process.state is ProcessState.RUNNING:
            raise ConflictError(f"process {exec_id} still runs")
        self.container.forget(exec_id)
        with self._lock:
            self._entries.pop(exec_id, None)
        return entry.process

    def release(self) -> None:
        """It is removed: let go of what stands for it, and run the last hooks."""
        if self._stand_in:
            self._stand_in.close()
        self.hooks.removed()

    def _kill_unstarted(self, entry: Entry, exec_id: str, number: int) -> None:
        if exec_id:
            raise ConflictError(f"process {exec_id} has not been started")
        if number not in (SIGKILL, SIGTERM):
            raise ConflictError(f"task {self.id} has not been started")
        with entry.starting:
            if entry.process.state is ProcessState.CREATED:
                entry.announced.set()
                entry.process.begin(self._on_exit)
        entry.process.signal(SIGKILL)

    def _on_exit(self, process: Process) -> None:
        with self._lock:
            entry = self._entries.get(process.exec_id)
        if entry is not None:
            entry.announced.wait(ANNOUNCE_TIMEOUT)
        self._told(
            events_pb2.TaskExit(
                container_id=self.id,
                id=process.exec_id,
                pid=self.pid,
                exit_status=process.exit_code or 0,
                exited_at=timestamp(process.exited_at or 0.0),
            )
        )
        if process is self.container.init:
            self._ended(self)

    def _connect(self, entry: Entry) -> None:
        entry.process.connect(self._streams(entry))

    def _streams(self, entry: Entry) -> Streams:
        names = entry.names
        return stdio.connect(names.stdin, names.stdout, names.stderr, container_id=self.id, namespace=self._namespace)

    def _resize(self, entry: Entry) -> None:
        if entry.size and entry.process.terminal:
            entry.process.resize(*entry.size)

"""One container of a sandbox: its init process and the processes added to it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from kata.sandbox.errors import ConflictError, ExistsError, NotFoundError
from kata.sandbox.process import Process, ProcessState

if TYPE_CHECKING:
    from collections.abc import Callable

    from kata.oci.spec import LinuxResources
    from kata.oci.spec import Process as ProcessSpec
    from kata.protocol.generated import agent_pb2
    from kata.sandbox.agent_client import AgentClient
    from kata.sandbox.stdio import Streams

REMOVE_TIMEOUT = 30.0
"""Seconds for the guest to kill what is left of a container and take its storages down."""


class Container:
    """A container that the agent has created. The lock guards the table of processes, never a call."""

    def __init__(self, agent: AgentClient, container_id: str, *, terminal: bool) -> None:
        self.id = container_id
        self.init = Process(agent, container_id, container_id, terminal=terminal)
        self.paused = False
        self._agent = agent
        self._lock = threading.Lock()
        self._processes = {container_id: self.init}

    def start(self, on_exit: Callable[[Process], None]) -> None:
        """Let the init process run."""
        self._agent.start_container(self.id)
        self.init.begin(on_exit)

    def process(self, exec_id: str) -> Process:
        """The process of that id; an empty id is the init process. Raises NotFoundError."""
        with self._lock:
            found = self._processes.get(exec_id or self.id)
        if found is None:
            raise NotFoundError(f"there is no process {exec_id} in container {self.id[:12]}")
        return found

    def add(self, exec_id: str, spec: ProcessSpec) -> Process:
        """One more process, not yet started. Raises ConflictError when the id is taken or the container has ended."""
        process = Process(self._agent, self.id, exec_id, terminal=bool(spec.get("terminal")), spec=spec)
        with self._lock:
            if exec_id in self._processes:
                raise ExistsError(f"there is a process {exec_id} already")
            if self.init.state is not ProcessState.RUNNING:
                raise ConflictError(f"container {self.id[:12]} is not running")
            self._processes[exec_id] = process
        return process

    def start_added(self, process: Process, streams: Streams, on_exit: Callable[[Process], None]) -> None:
        """Start a process that was added. After a failure it is still there, and can be started once more."""
        assert process.spec is not None
        process.connect(streams)
        try:
            self._agent.exec_process(self.id, process.exec_id, process.spec)
        except BaseException:
            process.disconnect()
            raise
        process.begin(on_exit)

    def exec(self, exec_id: str, spec: ProcessSpec, streams: Streams) -> Process:
        """Add a process and start it; nothing is left of one that cannot be started."""
        process = self.add(exec_id, spec)
        try:
            self.start_added(process, streams, lambda _: None)
        except BaseException:
            self.forget(exec_id)
            raise
        return process

    def forget(self, exec_id: str) -> None:
        """Drop the record of an exec process; the init process stays."""
        with self._lock:
            if exec_id != self.id:
                self._processes.pop(exec_id, None)

    def pause(self) -> None:
        """Freeze all its processes. Raises ConflictError unless it runs."""
        self._require_running()
        self._agent.pause_container(self.id)
        self.paused = True

    def resume(self) -> None:
        """Let its processes go on. Raises ConflictError unless it runs."""
        self._require_running()
        self._agent.resume_container(self.id)
        self.paused = False

    def update(self, resources: LinuxResources) -> None:
        """Give it other limits: those that are named. Raises ConflictError when it has ended."""
        if self.init.state is ProcessState.STOPPED:
            raise ConflictError(f"container {self.id[:12]} has ended")
        self._agent.update_container(self.id, resources)

    def stats(self) -> agent_pb2.StatsContainerResponse:
        """What it uses, as the guest counts it."""
        return self._agent.stats(self.id)

    def remove(self) -> None:
        """Have the guest kill what is left of it and release its storages."""
        self._agent.remove_container(self.id, REMOVE_TIMEOUT)

    def _require_running(self) -> None:
        if self.init.state is not ProcessState.RUNNING:
            raise ConflictError(f"container {self.id[:12]} is not running")

"""One container of a sandbox: its init process and the processes added to it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from kata.sandbox.errors import ConflictError, NotFoundError
from kata.sandbox.process import Process, ProcessState

if TYPE_CHECKING:
    from kata.oci.spec import Process as ProcessSpec
    from kata.sandbox.agent_client import AgentClient
    from kata.sandbox.stdio import StdioPaths


class Container:
    """A container that the agent has created. The lock guards the table of processes, never a call."""

    def __init__(self, agent: AgentClient, container_id: str, *, terminal: bool) -> None:
        self.id = container_id
        self.init = Process(agent, container_id, container_id, terminal=terminal)
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

    def exec(self, exec_id: str, spec: ProcessSpec, stdio: StdioPaths) -> Process:
        """Start one more process. Raises ConflictError when the id is taken or the container has ended."""
        process = Process(self._agent, self.id, exec_id, terminal=bool(spec.get("terminal")))
        with self._lock:
            if exec_id in self._processes:
                raise ConflictError(f"there is a process {exec_id} already")
            if self.init.state is not ProcessState.RUNNING:
                raise ConflictError(f"container {self.id[:12]} is not running")
            self._processes[exec_id] = process
        try:
            process.connect(stdio)
            self._agent.exec_process(self.id, exec_id, spec)
            process.begin(lambda _: None)
        except BaseException:
            self.forget(exec_id)
            raise
        return process

    def forget(self, exec_id: str) -> None:
        """Drop the record of an exec process; the init process stays."""
        with self._lock:
            if exec_id != self.id:
                self._processes.pop(exec_id, None)

"""One process in a container: the init process, or one that was added by exec.

State: CREATED, RUNNING, STOPPED; waiting is on a condition and any number of threads may wait. The exit is
announced only after the output has been written out, so that nobody hears of the end before the last line.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING

from kata.sandbox.errors import ConflictError, SandboxError
from kata.sandbox.stdio import READ_SIZE, Asked, InputPump, OutputPump, Sink, Streams

if TYPE_CHECKING:
    from kata.oci.spec import Process as ProcessSpec
    from kata.sandbox.agent_client import AgentClient

SIGKILL = 9
LOST_EXIT_CODE = 137
"""The exit code of a process whose VM or agent went away: as if killed by SIGKILL."""

DRAIN_TIMEOUT = 10.0
"""Seconds that a process's last output may take to be read by a client before the exit is told anyway."""

KILL_PATIENCE = 60.0
"""Seconds after which a process that was sent SIGKILL counts as lost: its guest may never say that it has ended."""


class ProcessState(Enum):
    """Where a process is in its life."""

    CREATED = "created"
    RUNNING = "running"
    STOPPED = "stopped"


class Process:
    """One process in the guest, with its stdio. `exec_id` is the container's id for the init process.

    `spec` is what an added process will run; the init process's is in its container's specification.
    """

    def __init__(
        self,
        agent: AgentClient,
        container_id: str,
        exec_id: str,
        *,
        terminal: bool,
        spec: ProcessSpec | None = None,
    ) -> None:
        self.container_id = container_id
        self.exec_id = exec_id
        self.spec = spec
        self.terminal = terminal
        self.state = ProcessState.CREATED
        self.exit_code: int | None = None
        self.exited_at: float | None = None
        self.error = ""
        self._agent = agent
        self._changed = threading.Condition()
        self._outputs: list[OutputPump] = []
        self._sinks: tuple[Sink, ...] = ()
        self._input: InputPump | None = None
        self._input_finished = False
        self._end: Asked[int] | None = None
        self._patience: threading.Timer | None = None
        self._given_up = False

    def connect(self, streams: Streams) -> None:
        """Prepare the copying of input and output. Call once, before `begin`. Raises OSError for a bad FIFO."""
        shared = self._sinks = streams.shared
        self._outputs = [OutputPump("stdout", partial(self._ask, stderr=False), streams.stdout, shared)]
        if not self.terminal:
            self._outputs.append(OutputPump("stderr", partial(self._ask, stderr=True), streams.stderr, shared))
        elif streams.stderr is not None:
            streams.stderr.close()  # a terminal has one output
        if streams.stdin:
            pump = InputPump(streams.stdin, self._write_stdin, self._close_stdin, hold=streams.hold_stdin)
            with self._changed:
                self._input = pump
                finished = self._input_finished
            if finished:
                pump.finish()

    def begin(self, on_exit: Callable[[Process], None]) -> None:
        """The process runs: copy its stdio, await its end, then call `on_exit` (on a thread of its own)."""
        with self._changed:
            if self.state is not ProcessState.CREATED:
                raise ConflictError(f"the process {self.exec_id} has been started already")
            self.state = ProcessState.RUNNING
        for output in self._outputs:
            output.start()
        if self._input is not None:
            self._input.start()
        elif not self.terminal:
            with contextlib.suppress(SandboxError):  # a process that ended already has no input to close
                self._close_stdin()
        threading.Thread(target=self._await_exit, args=(on_exit,), name="kata-wait", daemon=True).start()

    def disconnect(self) -> None:
        """Give back what `connect` took; for a process that could not be started."""
        for output in self._outputs:
            output.close()
        if self._input is not None:
            self._input.close()
        for sink in self._sinks:
            sink.close()
        self._outputs, self._input, self._sinks = [], None, ()

    def wait(self, timeout: float | None = None) -> int | None:
        """Exit code once the process ended, or None when it has not within `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self.state is ProcessState.STOPPED, timeout)
            return self.exit_code

    def signal(self, number: int, timeout: float | None = None) -> None:
        """Send a signal; the guest may take `timeout` seconds for it. One that comes after the end is a ConflictError.

        A guest that does not say within KILL_PATIENCE what became of SIGKILL has lost the process.
        """
        if self.state is not ProcessState.RUNNING:
            raise ConflictError(f"the process {self.exec_id[:12]} is not running")
        if number == SIGKILL:
            self._expect_end()
        self._agent.signal_process(self.container_id, self.exec_id, number, timeout)

    def resize(self, rows: int, columns: int) -> None:
        """Tell the process's terminal its size."""
        if not self.terminal:
            raise ConflictError(f"the process {self.exec_id[:12]} has no terminal")
        self._agent.resize(self.container_id, self.exec_id, rows, columns)

    def close_stdin(self) -> None:
        """End the process's input now. Returns at once, whatever the client does with its FIFO."""
        if self._input is not None:
            self._input.stop()
        self._close_stdin()

    def finish_stdin(self) -> None:
        """End the process's input once what its clients write is through. Returns at once, also before the start."""
        with self._changed:
            self._input_finished = True
            pump = self._input
        if pump is not None:
            pump.finish()

    def _ask(self, *, stderr: bool) -> Asked[bytes]:
        return self._agent.ask_output(self.container_id, self.exec_id, stderr=stderr, size=READ_SIZE)

    def _write_stdin(self, data: bytes) -> Asked[int]:
        return self._agent.write_stdin(self.container_id, self.exec_id, data)

    def _close_stdin(self) -> None:
        self._agent.close_stdin(self.container_id, self.exec_id)

    def _expect_end(self) -> None:
        with self._changed:
            if self._patience is None:
                self._patience = threading.Timer(KILL_PATIENCE, self._give_up)
                self._patience.daemon = True
                self._patience.start()

    def _give_up(self) -> None:
        with self._changed:
            self._given_up, end = True, self._end
        if end is not None:
            end.cancel()

    def _ask_end(self) -> int:
        """Wait for the exit code. Raises SandboxError when it will not come."""
        end = self._agent.ask_end(self.container_id, self.exec_id)
        with self._changed:
            self._end = end
        return end()

    def _await_exit(self, on_exit: Callable[[Process], None]) -> None:
        try:
            code = self._ask_end()
        except SandboxError as error:
            code, self.error = LOST_EXIT_CODE, error.what
            if self._given_up:
                self.error = f"the guest does not say that it has ended, {KILL_PATIENCE:.0f} s after SIGKILL"
        with self._changed:
            patience = self._patience
        if patience is not None:
            patience.cancel()
        if self._input is not None:
            self._input.stop()
        deadline = time.monotonic() + DRAIN_TIMEOUT
        for output in self._outputs:
            output.join(max(0.0, deadline - time.monotonic()))
        for sink in self._sinks:
            sink.close()
        with self._changed:
            self.exit_code = code & 0xFF
            self.exited_at = time.time()
            self.state = ProcessState.STOPPED
            self._changed.notify_all()
        on_exit(self)
        for output in self._outputs:
            while not output.finish(DRAIN_TIMEOUT):
                pass

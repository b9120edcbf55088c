"""The one place that waits for child processes, so that no exit status is ever lost.

The agent is the parent of everything: of programs it starts (crun), of containers' first processes, which
crun leaves behind to be inherited, and of every orphan of the guest. One thread reaps them all. A status is
kept for

* programs started by `Reaper.run`, registered under the lock that the reaping thread takes as well;
* processes inherited while a `Reaper.launching()` block is open: crun ends first and tells the pid later, and
  the process may be dead by then. `claim(pid)` then finds the status all the same.

Everything else is reaped and forgotten. Never call os.wait* elsewhere in a process that has a Reaper.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType

from kata.linux.spawn import spawn, spawn_on_terminal


class Exit:
    """One process's end: `wait` for its exit code, `send` it signals, or be told by `on_end`."""

    __slots__ = ("_condition", "_watchers", "code", "pid")

    def __init__(self, pid: int, condition: threading.Condition) -> None:
        self.pid = pid
        self.code: int | None = None
        """The exit code; 128 + the signal's number after a death by signal; None while it runs."""
        self._condition = condition
        self._watchers: list[Callable[[], None]] = []

    def wait(self, timeout: float | None = None) -> int | None:
        """The exit code, or None when `timeout` seconds pass first. Any number of threads may wait."""
        with self._condition:
            self._condition.wait_for(lambda: self.code is not None, timeout)
            return self.code

    def send(self, signo: int) -> None:
        """Send a signal to exactly this process. Raises ProcessLookupError when it has ended.

        The pid cannot belong to somebody else meanwhile: it is given back by reaping, under the same lock.
        """
        with self._condition:
            if self.code is not None:
                raise ProcessLookupError(errno.ESRCH, f"process {self.pid} has ended")
            os.kill(self.pid, signo)

    def on_end(self, watcher: Callable[[], None]) -> None:
        """Have `watcher` called once at the end (at once when it has ended).

        It must neither block nor wait.
        """
        with self._condition:
            if self.code is None:
                self._watchers.append(watcher)
                return
        watcher()

    def _end(self, code: int) -> None:
        self.code = code
        for watcher in self._watchers:
            watcher()
        self._watchers.clear()


class Reaper:
    """Reaps all children of this process.

    Create it in the main thread (Python sets signal handlers there only).
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a watcher may call `send` or `on_end` again
        self._ended = threading.Condition(self._lock)
        self._registered: dict[int, Exit] = {}
        self._unclaimed: dict[int, int] = {}
        self._launches = 0
        self._wake_r, self._wake_w = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._previous = signal.signal(signal.SIGCHLD, _nothing)
        signal.set_wakeup_fd(self._wake_w, warn_on_full_buffer=False)
        self._closing = False
        self.on_signal: Callable[[int], None] = _ignore
        """Called in the reaping thread with the number of every other signal that has a Python handler."""
        self._thread = threading.Thread(target=self._loop, name="reaper", daemon=True)
        self._thread.start()

    def run(self, argv: Sequence[str], env: Mapping[str, str], stdin: int, stdout: int, stderr: int) -> Exit:
        """Start a program; see `kata.linux.spawn.spawn`. The caller waits on the Exit."""
        with self._lock:
            return self._register(spawn(argv, env, stdin, stdout, stderr))

    def run_on_terminal(self, argv: Sequence[str], env: Mapping[str, str], terminal: str) -> Exit:
        """Start a program in a session and on a terminal of its own; see `kata.linux.spawn.spawn_on_terminal`."""
        with self._lock:
            return self._register(spawn_on_terminal(argv, env, terminal))

    @contextmanager
    def launching(self) -> Iterator[None]:
        """While this block is open, statuses of unknown children are kept for `claim`."""
        with self._lock:
            self._launches += 1
        try:
            yield
        finally:
            with self._lock:
                self._launches -= 1
                if not self._launches:
                    self._unclaimed.clear()

    def claim(self, pid: int) -> Exit:
        """The Exit of an inherited child, dead or alive.

        Raises ProcessLookupError when it never was our child.
        """
        with self._lock:
            if _is_child(pid):
                self._unclaimed.pop(pid, None)  # of an earlier process with the same pid
                return self._register(pid)
            if pid not in self._unclaimed:
                raise ProcessLookupError(f"process {pid} is no child of the agent")
            ended = Exit(pid, self._ended)
            ended.code = self._unclaimed.pop(pid)
            return ended

    def close(self) -> None:
        """Stop reaping; children that still run are left alone."""
        self._closing = True
        os.write(self._wake_w, b"\0")
        self._thread.join()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, self._previous)
        os.close(self._wake_r)
        os.close(self._wake_w)

    def _register(self, pid: int) -> Exit:
        self._registered[pid] = made = Exit(pid, self._ended)
        return made

    def _loop(self) -> None:
        os.set_blocking(self._wake_r, True)
        while not self._closing:
            for number in os.read(self._wake_r, 4096):
                if number not in (0, signal.SIGCHLD):
                    self.on_signal(number)
            self._reap()

    def _reap(self) -> None:
        with self._lock:
            while (found := _next_dead()) is not None:
                self._note(*found)
            self._ended.notify_all()

    def _note(self, pid: int, code: int) -> None:
        known = self._registered.pop(pid, None)
        if known is not None:
            known._end(code)
        elif self._launches:
            self._unclaimed[pid] = code


def _next_dead() -> tuple[int, int] | None:
    try:
        info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        return None
    if info is None:
        return None
    died_by_signal = info.si_code in (os.CLD_KILLED, os.CLD_DUMPED)
    return info.si_pid, info.si_status + (128 if died_by_signal else 0)


def _is_child(pid: int) -> bool:
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _nothing(signo: int, frame: FrameType | None) -> None:
    """A Python-level handler has to exist for the wakeup descriptor to be written."""


def _ignore(signo: int) -> None:
    pass

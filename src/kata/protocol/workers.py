"""Threads that run calls: as many as there are calls at once, idle ones used again.

Called by `server`. Never add queues: a call that waits for hours must not keep another one waiting.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

IDLE_TIMEOUT = 20.0
"""Seconds after which a thread without work ends; each one that lives costs about 0.1 MiB."""


class Worker:
    """One thread. `task` is what to do next; `wake` is held while there is nothing."""

    __slots__ = ("task", "wake")

    def __init__(self, task: Callable[[], None]) -> None:
        self.task: Callable[[], None] | None = task
        self.wake = threading.Lock()
        self.wake.acquire()


class Workers:
    """A pool without upper limit: its user limits the calls. A context manager is not needed: `close` once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[Worker] = []
        self._threads: set[threading.Thread] = set()
        self._closed = False

    def run(self, task: Callable[[], None]) -> None:
        """Run `task` in a thread at once: in the one that became idle last, or a new one. It must not raise.

        Raises RuntimeError when closed, or when the system has no more threads.
        """
        with self._lock:
            if self._closed:
                raise RuntimeError("the workers are closed")
            worker = self._idle.pop() if self._idle else None
        if worker is None:
            worker = Worker(task)
            thread = threading.Thread(target=self._work, args=(worker,), name="ttrpc-call", daemon=True)
            with self._lock:
                self._threads.add(thread)
            try:
                thread.start()
            except RuntimeError:
                with self._lock:
                    self._threads.discard(thread)
                raise
        else:
            worker.task = task
            worker.wake.release()

    def close(self, timeout: float) -> bool:
        """End idle threads now and busy ones after their task; wait for them. False if some were still busy."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            threads = [thread for thread in self._threads if thread is not threading.current_thread()]
        for worker in idle:
            worker.wake.release()
        deadline = time.monotonic() + timeout
        for thread in threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def _work(self, worker: Worker) -> None:
        while (task := worker.task) is not None:
            task()
            worker.task = task = None
            if not self._rest(worker):
                break
        with self._lock:
            self._threads.discard(threading.current_thread())

    def _rest(self, worker: Worker) -> bool:
        """Wait for the next task; False when there will be none."""
        with self._lock:
            if self._closed:
                return False
            self._idle.append(worker)
        if worker.wake.acquire(timeout=IDLE_TIMEOUT):
            return True
        with self._lock:
            if worker in self._idle:
                self._idle.remove(worker)
                return False
        # Given a task (or the end) in the very moment the wait ran out: it is on its way.
        return worker.wake.acquire()

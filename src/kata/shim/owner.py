"""A thread that stays, for what must be started by one that does.

QEMU and virtiofsd get a parent-death signal, which follows the thread that started them and not the process
(PR_SET_PDEATHSIG, prctl(2)). The threads that answer containerd end when there is nothing to answer for a while; a
sandbox started by one of them would die with it.
"""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Owner:
    """Runs things on a thread of its own, which is started with the first and ends with the process."""

    def __init__(self) -> None:
        self._actions: queue.SimpleQueue[Action] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def run(self, action: Callable[[], None]) -> None:
        """Run `action` there, after those before it, and wait for it. Raises what it raises."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="owner", daemon=True)
                self._thread.start()
        entry = Action(action)
        self._actions.put(entry)
        entry.done.wait()
        if entry.error is not None:
            raise entry.error

    def _work(self) -> None:
        while True:
            entry = self._actions.get()
            try:
                entry.action()
            except BaseException as error:  # noqa: BLE001 - it is raised where it was asked for
                entry.error = error
            entry.done.set()
            del entry  # nothing of it may stay until the next one comes


class Action:
    """Something to run, and how it went."""

    def __init__(self, action: Callable[[], None]) -> None:
        self.action = action
        self.done = threading.Event()
        self.error: BaseException | None = None

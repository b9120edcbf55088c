"""Deletes of tasks that are under way, and a Shutdown that comes meanwhile.

containerd gives a Delete five seconds where it clears up after a Create that was given up, asks for Shutdown then, and
never again; by that time the virtual machine may not be down yet, and the task still be there. And one that is killed
after a Delete, before its Shutdown, comes back to a shim without tasks, which it (1.6) keeps, and can do nothing with.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


GRACE = 5.0
"""Seconds after the last task's end in which containerd says Shutdown; it does so at once, if it is alive."""


class Deletions:
    """Which tasks are being deleted.

    `shutdown` is called when the last is gone: at once if that was asked for meanwhile, else when nobody has asked for
    it, nor made another task, within `grace` seconds.
    """

    def __init__(self, shutdown: Callable[[], None], grace: float = GRACE) -> None:
        self._shutdown = shutdown
        self._grace = grace
        self._lock = threading.Lock()
        self._under_way: list[str] = []
        self._asked = False

    @contextlib.contextmanager
    def of(self, container_id: str) -> Iterator[None]:
        """While this goes on, the task is being deleted."""
        with self._lock:
            self._under_way.append(container_id)
        try:
            yield
        finally:
            with self._lock:
                self._under_way.remove(container_id)

    def shut_down_after(self, tasks: Iterable[str]) -> None:
        """The process is to end. With tasks that nobody deletes it does not, as containerd's own shims have it."""
        with self._lock:
            self._asked = set(tasks) <= set(self._under_way)

    def check(self, idle: Callable[[], bool]) -> None:
        """A task is gone. `idle`: whether there is none now."""
        if not idle():
            return
        with self._lock:
            asked = self._asked
        if asked:
            self._shutdown()
            return
        waiting = threading.Timer(self._grace, lambda: self._shutdown() if idle() else None)
        waiting.daemon = True
        waiting.start()

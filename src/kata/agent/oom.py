"""Out-of-memory kills in containers: what GetOOMEvent waits for.

The kernel writes them to memory.events of the container's cgroup (admin-guide/cgroup-v2.rst) and tells by
inotify. There is no thread for this: whoever calls `wait` does the watching.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque

from kata.agent.errors import SandboxGone
from kata.linux import cgroup, syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class OomWatcher:
    """Watches the cgroups of all containers. Owns an inotify and an event descriptor."""

    def __init__(self) -> None:
        self._inotify = syscalls.inotify_init1(syscalls.IN_CLOEXEC | syscalls.IN_NONBLOCK)
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._lock = threading.Lock()
        self._watched: dict[str, tuple[int, str]] = {}
        self._kills: dict[str, int] = {}
        self._events: deque[str] = deque()
        self._closed = False

    def watch(self, container_id: str, path: str) -> None:
        """Watch the cgroup directory `path`; without a memory controller there is nothing to watch."""
        try:
            number = syscalls.inotify_add_watch(self._inotify, f"{path}/memory.events", syscalls.IN_MODIFY)
        except FileNotFoundError:
            return
        with self._lock:
            self._watched[container_id] = (number, path)
            self._kills[container_id] = _kills(path)

    def forget(self, container_id: str) -> None:
        """Stop watching, and drop what was not told yet."""
        with self._lock:
            number, _ = self._watched.pop(container_id, (-1, ""))
            self._kills.pop(container_id, None)
        try:
            if number >= 0:
                syscalls.inotify_rm_watch(self._inotify, number)
        except OSError:
            pass  # the kernel dropped it together with the cgroup

    def wait(self, gone: Callable[[], bool]) -> str:
        """The id of the next container in which something was killed. Blocks; raises SandboxGone at the end.

        `gone` tells whether the caller has left meanwhile: an event is never given to one who has.
        """
        poller = select.poll()
        poller.register(self._inotify, select.POLLIN)
        poller.register(self._wake, select.POLLIN)
        while True:
            with self._lock:
                self._collect()
                if self._closed or gone():
                    raise SandboxGone("no more out-of-memory events: the sandbox or the caller is gone")
                if self._events:
                    return self._pop()
            poller.poll()

    def close(self) -> None:
        """Make everybody's `wait` end. The descriptors live as long as the agent does."""
        with self._lock:
            self._closed = True
            os.eventfd_write(self._wake, 1)

    def _pop(self) -> str:
        found = self._events.popleft()
        if self._events:
            os.eventfd_write(self._wake, 1)  # for the next caller
        else:
            _clear(self._wake)
        return found

    def _collect(self) -> None:
        try:
            os.read(self._inotify, 65536)  # which file it was does not matter: the counters tell
        except BlockingIOError:
            return
        for container_id, (_, path) in self._watched.items():
            now = _kills(path)
            if now > self._kills[container_id]:
                self._events.append(container_id)
            self._kills[container_id] = now


def _kills(path: str) -> int:
    return cgroup.flat(path, "memory.events").get("oom_kill", 0)


def _clear(event: int) -> None:
    try:
        os.eventfd_read(event)
    except BlockingIOError:
        pass

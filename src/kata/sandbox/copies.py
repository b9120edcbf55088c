"""The copies that a guest which shares nothing has of volumes of the host, and the thread that keeps some up to date.

Called by `provide`. A volume that the kubelet changes (a ConfigMap, a Secret) is followed by inotify: its folder is
watched, where an update ends with the renaming of a link. The thread is there only while there is something to follow,
and sends nothing but what has changed. An update that cannot be sent is logged and tried again.
"""

from __future__ import annotations

import os
import select
import threading
import time
from typing import TYPE_CHECKING

from kata.errors import KataError
from kata.sandbox.copying import Copier
from kata.sandbox.errors import ConflictError

if TYPE_CHECKING:
    from contextlib import ExitStack

    from kata.linux.inotify import Inotify
    from kata.log import Logger
    from kata.sandbox.copying import Receiver
    from kata.sandbox.updates import Copy

QUIET, LONGEST = 0.05, 0.5
"""Seconds without a change after which one is taken to be complete; and how long that is waited for."""
RETRY, TRIES = 2.0, 5
"""Seconds until an update that failed is tried again, and how often."""
END_TIMEOUT = 3.0
"""Seconds for a call to the agent that is under way when the sandbox ends."""


class _Followed:
    """One volume. `number` is its watch, which all copies of the same volume have in common."""

    __slots__ = ("complaint", "copier", "number", "path")

    def __init__(self, path: str, number: int, copier: Copier) -> None:
        self.path = path
        self.number = number
        self.copier = copier
        self.complaint = ""


class Copies:
    """Those of one sandbox. Thread-safe. The lock guards the list, and is never held over a call to the agent."""

    def __init__(self, log: Logger) -> None:
        self._log = log
        self._lock = threading.Lock()
        self._followed: list[_Followed] = []
        self._inotify: Inotify | None = None
        self._thread: threading.Thread | None = None
        self._wake = -1
        self._closed = False

    def send(self, receiver: Receiver, copy: Copy, undo: ExitStack) -> None:
        """Send a volume, and follow it until `undo` if it asks for that. Raises ConfigError, the receiver's errors."""
        copier = Copier(receiver, copy)
        copier.run()
        if copy.followed:
            undo.callback(self._forget, self._follow(copy.path, copier))

    def close(self) -> None:
        """End the thread. Idempotent."""
        with self._lock:
            self._closed = True
            thread, self._thread = self._thread, None
            if thread is not None:
                os.eventfd_write(self._wake, 1)
        if thread is not None:
            thread.join(END_TIMEOUT)

    def _follow(self, path: str, copier: Copier) -> _Followed:
        from kata.linux.inotify import Inotify  # for guests that share nothing

        with self._lock:
            if self._closed:
                raise ConflictError("the sandbox is being stopped")
            if self._inotify is None:
                self._inotify, self._wake = Inotify(), os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
                self._thread = threading.Thread(
                    target=self._run, args=(self._inotify, self._wake), name="copies", daemon=True
                )
                self._thread.start()
            entry = _Followed(path, self._inotify.watch(path), copier)
            self._followed.append(entry)
            os.eventfd_write(self._wake, 1)  # it may have changed between the copy and the watch
        return entry

    def _forget(self, entry: _Followed) -> None:
        with self._lock:
            self._followed.remove(entry)
            if self._inotify is not None and all(other.number != entry.number for other in self._followed):
                self._inotify.unwatch(entry.number)

    def _run(self, inotify: Inotify, wake: int) -> None:
        """The thread: wait for a change, then for its end, then send what is new."""
        tries = 0
        with inotify:
            while True:
                changed = _wait((inotify.fileno(), wake), RETRY if tries else None)
                _settle(inotify, wake)
                with self._lock:
                    if self._closed:
                        break
                    followed = list(self._followed)
                tries = TRIES if changed else tries - 1
                failed = [entry for entry in followed if not self._update(entry)]
                tries = tries if failed else 0
        os.close(wake)

    def _update(self, entry: _Followed) -> bool:
        try:
            entry.copier.run()
        except KataError as error:
            if entry.complaint != error.what and not self._closed:
                self._log.warn("a volume's changes did not reach the guest", source=entry.path, error=error)
            entry.complaint = error.what
            return False
        entry.complaint = ""
        return True


def _settle(inotify: Inotify, wake: int) -> None:
    """Take in what happens until nothing has for a moment."""
    deadline = time.monotonic() + LONGEST
    while True:
        inotify.drain()
        try:
            os.eventfd_read(wake)
        except BlockingIOError:
            pass  # nobody woke us
        if time.monotonic() > deadline or not _wait((inotify.fileno(),), QUIET):
            return


def _wait(fds: tuple[int, ...], timeout: float | None) -> bool:
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return bool(poll.poll(None if timeout is None else timeout * 1000))

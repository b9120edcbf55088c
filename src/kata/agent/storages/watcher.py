"""The one thread that brings mirrors of the share up to date.

Made by `table`. It lives only while there are mirrors. Looking at the source again and again is right here: what
changes on the host gives no events through virtio-fs or 9p. Between two looks it waits on a condition, so that it
ends at once when the last mirror goes. An update that fails is logged once and tried again.
"""

from __future__ import annotations

import threading

from kata.agent.storages.errors import StorageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.agent.storages.mirror import Mirror
    from kata.log import Logger

INTERVAL = 0.5
"""Seconds between two looks; with the second for which virtio-fs may cache what it saw, changes take under two."""


class Watcher:
    """Updates the mirrors given to it until they are taken back. Thread-safe."""

    def __init__(self, log: Logger | None = None, interval: float = INTERVAL) -> None:
        self._log = log
        self._interval = interval
        self._changed = threading.Condition()
        self._mirrors: list[Mirror] = []
        self._complaints: dict[str, str] = {}
        self._thread: threading.Thread | None = None

    def add(self, mirror: Mirror) -> None:
        """Keep it up to date from now on."""
        with self._changed:
            self._mirrors.append(mirror)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)
                self._thread.start()

    def remove(self, mirror: Mirror) -> None:
        """Not any more; the mirror is closed."""
        with self._changed:
            self._mirrors.remove(mirror)
            self._complaints.pop(mirror.source, None)
            self._changed.notify_all()
        mirror.close()

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._mirrors:
                    self._changed.wait(self._interval)
                if not self._mirrors:
                    self._thread = None
                    return
                mirrors = list(self._mirrors)
            for mirror in mirrors:
                self._update(mirror)

    def _update(self, mirror: Mirror) -> None:
        try:
            mirror.update()
        except (OSError, StorageError) as error:
            if self._complaints.get(mirror.source) != str(error) and self._log:
                self._log.warn("a watched volume cannot be brought up to date", source=mirror.source, error=error)
            self._complaints[mirror.source] = str(error)
        else:
            self._complaints.pop(mirror.source, None)

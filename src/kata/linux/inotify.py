"""inotify(7) as far as following a folder needs it: a descriptor to select on, and a way to empty it."""

from __future__ import annotations

import os
from types import TracebackType

from kata.linux import syscalls

EVERYTHING = (
    syscalls.IN_MODIFY | syscalls.IN_MOVED_TO | syscalls.IN_CREATE | syscalls.IN_DELETE | syscalls.IN_DELETE_SELF
)


class Inotify:
    """An inotify instance; a context manager with a `fileno`."""

    def __init__(self) -> None:
        self._fd = syscalls.inotify_init1(syscalls.IN_CLOEXEC | syscalls.IN_NONBLOCK)

    def __enter__(self) -> Inotify:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)

    def fileno(self) -> int:
        """Readable when something changed."""
        return self._fd

    def watch(self, path: str, mask: int = EVERYTHING) -> int:
        """Watch a file or folder; the watch's number, the same for the same one. Raises OSError."""
        return syscalls.inotify_add_watch(self._fd, path, mask)

    def unwatch(self, number: int) -> None:
        """Not any more; one that ended with its file is fine."""
        try:
            syscalls.inotify_rm_watch(self._fd, number)
        except OSError:
            pass

    def drain(self) -> None:
        """Forget what has happened so far."""
        try:
            while os.read(self._fd, 65536):
                pass
        except BlockingIOError:
            pass

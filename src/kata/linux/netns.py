"""Network namespaces by path: opening one, and doing something in it without leaving one's own.

A thread of its own enters the namespace, since setns(2) is for the calling thread. Sockets and tap descriptors
stay in the namespace that they were made in, so making them is all that has to be done there. Never make or
remove a namespace here.
"""

from __future__ import annotations

import errno
import os

from kata.linux.apart import apart
from kata.linux.syscalls import CLONE_NEWNET, setns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self, TypeVar

    T = TypeVar("T")

OWN = "/proc/thread-self/ns/net"


class NetworkNamespace:
    """A network namespace, held open. Context manager. As long as it is open the namespace lives on.

    Raises OSError when there is nothing at `path`, or something else (EINVAL).
    """

    def __init__(self, path: str) -> None:
        # O_NONBLOCK: a FIFO in its place must not keep us waiting.
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self.call(bool)
        except OSError as error:
            os.close(self._fd)
            raise OSError(error.errno, f"{path} is no network namespace: {os.strerror(error.errno or 0)}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def fileno(self) -> int:
        """The descriptor that holds it; it stays this object's."""
        return self._fd

    def close(self) -> None:
        """Let go of the namespace. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def is_own(self) -> bool:
        """True when the calling thread is in this namespace."""
        return os.path.samestat(os.fstat(self._fd), os.stat(OWN))

    def call(self, function: Callable[[], T]) -> T:
        """What `function` returns or raises, called in the namespace. It must not wait for anything."""
        if self._fd < 0:
            raise OSError(errno.EBADF, "the network namespace was closed")

        def visit() -> T:
            setns(self._fd, CLONE_NEWNET)
            return function()

        return apart(visit, "netns")

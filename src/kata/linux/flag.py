"""Something that is waited for, and that a signal handler may tell.

threading.Event is not for that. A handler runs in the main thread, between any two steps of what it does; when that is
`wait` with the event's lock taken, `set` waits for the lock for ever. And a signal that comes just before a system call
that waits is handled after it: only what the C half of a handler writes (`signal.set_wakeup_fd`) ends that call.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time


class Flag:
    """Set once, for good. Its pipe is closed with the object."""

    def __init__(self) -> None:
        self._set = False
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def __del__(self) -> None:
        os.close(self._read)
        os.close(self._write)

    def set_on(self, number: int) -> None:
        """Have a signal set it, whenever it comes. For the main thread, and for one flag of a process."""
        signal.signal(number, lambda *_: self.set())
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)

    def set(self) -> None:
        """Wake up who waits, and who will. May be called by a signal handler, by any thread, and again."""
        self._set = True
        with contextlib.suppress(BlockingIOError):  # it is full, so whoever waits is awake
            os.write(self._write, b"\0")

    def is_set(self) -> bool:
        """Whether it was."""
        return self._set

    def wait(self, timeout: float | None = None) -> bool:
        """Until it is set, or `timeout` seconds are over; whether it was set."""
        deadline = None if timeout is None else time.monotonic() + timeout
        ready = select.poll()
        ready.register(self._read, select.POLLIN)
        while not self._set:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not ready.poll(None if left is None else left * 1000):
                break
            self._forget_other_signals()
        return self._set

    def _forget_other_signals(self) -> None:
        if self._set:
            return
        with contextlib.suppress(BlockingIOError):
            os.read(self._read, 4096)
        if self.is_set():
            self.set()  # that may have been read too, and others may wait

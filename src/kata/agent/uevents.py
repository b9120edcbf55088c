"""The guest's one reader of the kernel's device events, and waiting for a device with a deadline.

The agent makes one `Uevents`, starts it before it serves, and hands it to `devices.hotplug`, which knows what to
look for. A waiter is registered before anything is looked at or triggered, so no event slips between; what is
there already is found in sysfs, so no history of events is kept, and a stale one can never answer for a device
that is gone. Memory that the host adds is brought online here, since nobody waits for it.
Never add matchers of particular devices, nor keep a waiter that nobody waits for.
"""

from __future__ import annotations

import os
import select
import threading
import time

from kata.agent.devices.errors import DeviceTimeout
from kata.linux.fds import write_text
from kata.linux.uevent import EventsLost, UeventSocket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from kata.linux.uevent import Uevent
    from kata.log import Logger

    class Source(Protocol):
        """Where events come from: `kata.linux.uevent.UeventSocket`, or a test's own."""

        def fileno(self) -> int: ...
        def receive(self) -> Uevent | None: ...
        def close(self) -> None: ...

    class Wanted(Protocol):
        """A device to wait for. `match` and `find` give its name, or "" when it is not that or not there."""

        @property
        def what(self) -> str: ...
        def match(self, event: Uevent) -> str: ...
        def find(self) -> str: ...


_JOIN_SECONDS = 5.0


class _Waiter:
    """One thread that waits; `found` is the name of its device once an event told it."""

    __slots__ = ("found", "wake", "wanted")

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self.found = ""
        self.wake = threading.Event()


class Uevents:
    """Reads device events in a thread of its own and wakes who waits for them. Context manager; owns its source."""

    def __init__(self, source: Source | None = None, *, sysfs: str = "/sys", log: Logger | None = None) -> None:
        self._source = source or UeventSocket()
        self._sysfs = sysfs
        self._log = log
        self._lock = threading.Lock()
        self._waiters: dict[int, _Waiter] = {}
        self._next_id = 0
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="uevents", daemon=True)

    def __enter__(self) -> Uevents:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def start(self) -> None:
        """Begin to read. Call once, before anything waits."""
        self._thread.start()

    def close(self) -> None:
        """Stop reading and give everything back. Waiters run into their deadlines."""
        if self._stop < 0:
            return
        os.eventfd_write(self._stop, 1)
        if self._thread.ident is not None:
            self._thread.join(_JOIN_SECONDS)
        os.close(self._stop)
        self._stop = -1
        self._source.close()

    def wait_for(self, wanted: Wanted, timeout: float, trigger: Callable[[], None] | None = None) -> str:
        """The name of the wanted device, as soon as it is there; `timeout` in seconds. Raises DeviceTimeout.

        `trigger` makes the kernel look for it (a SCSI scan); it runs once, when the device is not there already.
        """
        deadline = time.monotonic() + timeout
        waiter = _Waiter(wanted)
        number = self._register(waiter)
        try:
            while True:
                name = wanted.find()
                if name:
                    return name
                if trigger:
                    trigger()
                    trigger = None
                woken = waiter.wake.wait(max(0.0, deadline - time.monotonic()))
                if waiter.found:
                    return waiter.found
                waiter.wake.clear()  # events were lost: look again
                if not woken:
                    break
            name = wanted.find()  # the last word is sysfs'
            if name:
                return name
            raise DeviceTimeout(wanted.what, timeout)
        finally:
            with self._lock:
                del self._waiters[number]

    @property
    def waiting(self) -> int:
        """How many threads wait for a device now."""
        with self._lock:
            return len(self._waiters)

    def _register(self, waiter: _Waiter) -> int:
        with self._lock:
            self._next_id += 1
            self._waiters[self._next_id] = waiter
            return self._next_id

    def _run(self) -> None:
        poller = select.poll()
        poller.register(self._source.fileno(), select.POLLIN)
        poller.register(self._stop, select.POLLIN)
        while True:
            ready = [fd for fd, _ in poller.poll()]  # no deadline: it ends by the stop descriptor
            if self._stop in ready:
                return
            try:
                event = self._source.receive()
            except EventsLost:
                self._wake_all()
            except OSError as error:
                self._warn("cannot read device events", error)
                return
            else:
                if event:
                    self._dispatch(event)

    def _wake_all(self) -> None:
        with self._lock:
            for waiter in self._waiters.values():
                waiter.wake.set()

    def _dispatch(self, event: Uevent) -> None:
        if event.action != "add":
            return
        if event.subsystem == "memory":
            self._online_memory(event)
            return
        with self._lock:
            for waiter in self._waiters.values():
                if not waiter.found:
                    waiter.found = waiter.wanted.match(event)
                    if waiter.found:
                        waiter.wake.set()

    def _online_memory(self, event: Uevent) -> None:
        """Hot-added memory is of use only once it is online (Documentation/admin-guide/mm/memory-hotplug.rst)."""
        if not event.devpath.startswith("/devices/system/memory/") or ".." in event.devpath:
            return
        try:
            write_text(f"{self._sysfs}{event.devpath}/online", "1")
        except OSError as error:
            self._warn("cannot bring memory online", error)

    def _warn(self, message: str, error: OSError) -> None:
        if self._log:
            self._log.warn(message, error=error)

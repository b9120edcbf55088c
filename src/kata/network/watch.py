"""Networks that are set up late, or changed: watching a namespace, and what changed between two looks at it.

Called by the sandbox, which gives its guest what has come. Some engines put the interfaces into the namespace only
after the sandbox was made (Docker from 26 on), and all let interfaces come and go later. Nothing is polled: the kernel
wakes us.
"""

from __future__ import annotations

import os
import select
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import msgspec

from kata.linux.rtnetlink.notify import Notifications
from kata.network.endpoint import Endpoint
from kata.network.errors import NetworkError
from kata.network.place import Place
from kata.network.scan import scan_place
from kata.network.to_guest import is_link_local

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Self

SETTLE = 0.1
"""Seconds of quiet after which a network counts as set up: address, routes and link state come one by one."""
SETTLE_LIMIT = 5.0
"""Seconds after which it is taken as it is, while things still change. Upstream waits as long for a late network."""


class Seen(msgspec.Struct, frozen=True):
    """What a namespace has: its endpoints, and index and name of all its interfaces, those without address too."""

    endpoints: tuple[Endpoint, ...] = ()
    links: frozenset[tuple[int, str]] = frozenset()


class Changes(msgspec.Struct, frozen=True):
    """What has become of the endpoints that were known; they are the same when name and index are."""

    added: tuple[Endpoint, ...] = ()
    removed: tuple[Endpoint, ...] = ()
    changed: tuple[Endpoint, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)


def changes(known: Iterable[Endpoint], seen: Seen) -> Changes:
    """The difference, as far as a guest can follow it: interfaces, their addresses and routes.

    `changed` holds what was known with its new addresses and routes; MAC address and flags are those from before
    anything was attached. An interface that lost its addresses stays. PCI devices are not missed: their interfaces are
    gone while a VM has them.
    """
    before = {key(endpoint): endpoint for endpoint in known}
    updated = [
        msgspec.structs.replace(before[key(found)], addresses=found.addresses, routes=found.routes)
        for found in seen.endpoints
        if key(found) in before
    ]
    return Changes(
        added=tuple(found for found in seen.endpoints if key(found) not in before),
        removed=tuple(entry for name, entry in before.items() if name not in seen.links and not entry.pci_address),
        changed=tuple(entry for entry in updated if _configuration(entry) != _configuration(before[key(entry)])),
    )


def key(endpoint: Endpoint) -> tuple[int, str]:
    """By what an endpoint is known again."""
    return endpoint.index, endpoint.name


def _configuration(endpoint: Endpoint) -> object:
    """What a guest is told: the kernel adds link-local addresses when it likes."""
    return {entry for entry in endpoint.addresses if not is_link_local(entry)}, set(endpoint.routes)


class Watch:
    """A namespace under observation. Context manager; `wake` is for any thread, the rest for one.

    Raises NamespaceError, NetworkError.
    """

    def __init__(self, netns_path: str) -> None:
        self._path = netns_path
        self._lock = threading.Lock()
        with ExitStack() as stack:
            self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            stack.callback(self._close_wake)
            self._place = stack.enter_context(Place(netns_path))
            try:
                self._notifications = stack.enter_context(self._place.namespace.call(Notifications))
            except OSError as error:
                raise self._deaf(error) from error
            self._poll = select.poll()
            for fd in (self._wake, self._notifications.fileno()):
                self._poll.register(fd, select.POLLIN)
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def wake(self) -> None:
        """Have `wait` return True, now or the next time. Harmless after the end."""
        with self._lock:
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    def look(self) -> Seen:
        """What there is now. Raises what `scan` raises."""
        try:
            links = frozenset((link.ifindex, link.name) for link in self._place.netlink.list_links())
        except OSError as error:
            raise NetworkError(f"the network of {self._path} cannot be read: {error.strerror}") from error
        return Seen(scan_place(self._place), links)

    def wait(self, timeout: float | None = None) -> bool:
        """True once something has changed, or `wake` was called; False after `timeout` seconds. Raises NetworkError."""
        ready = {fd for fd, _ in self._poll.poll(None if timeout is None else timeout * 1000)}
        if self._wake in ready:
            os.eventfd_read(self._wake)
        if self._notifications.fileno() in ready:
            try:
                self._notifications.wait(time.monotonic() + SETTLE)
            except OSError as error:
                raise self._deaf(error) from error
        return bool(ready)

    def settle(self, settle: float = SETTLE, limit: float = SETTLE_LIMIT) -> None:
        """Return once nothing has changed for `settle` seconds, or when `limit` is over."""
        deadline = time.monotonic() + limit
        while (left := deadline - time.monotonic()) > 0 and self.wait(min(settle, left)):
            pass

    def _close_wake(self) -> None:
        with self._lock:
            os.close(self._wake)
            self._wake = -1

    def _deaf(self, error: OSError) -> NetworkError:
        return NetworkError(f"changes of {self._path} cannot be heard: {error.strerror}")

"""Networks that are set up late: waiting for endpoints, and what changed between two scans.

Some engines (Docker from 26 on) put the interfaces into the namespace only after the container was started.
"""

from __future__ import annotations

import time

import msgspec

from kata.linux.rtnetlink.notify import Notifications
from kata.network.endpoint import Endpoint
from kata.network.errors import NetworkError, WaitTimeoutError
from kata.network.place import Place
from kata.network.scan import scan_place

TIMEOUT = 5.0
"""Seconds that upstream waits for a late network."""
SETTLE = 0.1
"""Seconds of quiet after which a network counts as set up: address, routes and link state come one by one."""


class Changes(msgspec.Struct, frozen=True):
    """What is different in a namespace; endpoints are the same when name and index are."""

    added: tuple[Endpoint, ...] = ()
    removed: tuple[Endpoint, ...] = ()
    changed: tuple[Endpoint, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)


def changes(old: tuple[Endpoint, ...], new: tuple[Endpoint, ...]) -> Changes:
    """What happened between two scans. `changed` holds the endpoints as they are in `new`."""
    before = {(endpoint.name, endpoint.index): endpoint for endpoint in old}
    after = {(endpoint.name, endpoint.index): endpoint for endpoint in new}
    return Changes(
        added=tuple(endpoint for key, endpoint in after.items() if key not in before),
        removed=tuple(endpoint for key, endpoint in before.items() if key not in after),
        changed=tuple(endpoint for key, endpoint in after.items() if key in before and before[key] != endpoint),
    )


def wait_for_endpoints(netns_path: str, timeout: float = TIMEOUT, settle: float = SETTLE) -> tuple[Endpoint, ...]:
    """The namespace's endpoints once there is one and nothing has changed for `settle` seconds.

    Returns what there is when `timeout` seconds are over while things still change. Raises WaitTimeoutError when there
    is none by then, and what `scan` raises. The kernel wakes us: nothing is polled.
    """
    deadline = time.monotonic() + timeout
    with Place(netns_path) as place, place.namespace.call(Notifications) as notifications:
        while True:
            found = scan_place(place)
            limit = min(deadline, time.monotonic() + settle) if found else deadline
            if not _wait(notifications, limit, netns_path):
                break
    if not found:
        raise WaitTimeoutError(f"no interface came into the network namespace {netns_path} within {timeout:g} s")
    return found


def _wait(notifications: Notifications, deadline: float, path: str) -> bool:
    try:
        return notifications.wait(deadline)
    except OSError as error:
        raise NetworkError(f"changes of {path} cannot be heard: {error.strerror}") from error

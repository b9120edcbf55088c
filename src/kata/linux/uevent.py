"""The kernel's device events: the netlink socket they come from and their text.

Called by the agent's uevent reader. One socket, one message, one value. Never match, store or wait here.
Source: lib/kobject_uevent.c; the text is a header `action@devpath` and KEY=value items, each ended by NUL.
"""

from __future__ import annotations

import errno
import socket
from typing import NamedTuple

NETLINK_KOBJECT_UEVENT = 15
KERNEL_GROUP = 1
SO_RCVBUFFORCE = 33
_RECEIVE_BUFFER = 1 << 20
_LARGEST = 16384  # UEVENT_BUFFER_SIZE is 2 KiB; four times that and then some


class Uevent(NamedTuple):
    """One event. Keys that it did not have are empty."""

    action: str
    devpath: str
    subsystem: str = ""
    devname: str = ""
    interface: str = ""
    seqnum: str = ""


class EventsLost(Exception):  # noqa: N818 - it is an event too: "look at sysfs yourself"
    """The kernel dropped events because nobody read them in time."""


def parse(raw: bytes) -> Uevent | None:
    """The event in one message, or None for what is no event of the kernel's (udev's own begin with "libudev")."""
    header, *items = raw.split(b"\0")
    if b"@" not in header:
        return None
    values = {}
    for item in items:
        key, found, value = item.decode("utf-8", "surrogateescape").partition("=")
        if found:
            values[key] = value
    if not values.get("ACTION") or not values.get("DEVPATH", "").startswith("/"):
        return None
    return Uevent(
        values["ACTION"],
        values["DEVPATH"],
        values.get("SUBSYSTEM", ""),
        values.get("DEVNAME", ""),
        values.get("INTERFACE", ""),
        values.get("SEQNUM", ""),
    )


class UeventSocket:
    """Hears the kernel's events of this network namespace. Context manager; owns the socket. Needs no privilege."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, NETLINK_KOBJECT_UEVENT)
        try:
            self._enlarge()
            self._socket.bind((0, KERNEL_GROUP))
        except OSError:
            self._socket.close()
            raise

    def _enlarge(self) -> None:
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, _RECEIVE_BUFFER)
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)

    def __enter__(self) -> UeventSocket:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()

    def fileno(self) -> int:
        """The descriptor, to wait on."""
        return self._socket.fileno()

    def receive(self) -> Uevent | None:
        """The next event; None for a message that is none or that no kernel sent. Raises EventsLost, OSError."""
        try:
            raw, (port, _groups) = self._socket.recvfrom(_LARGEST)
        except OSError as error:
            if error.errno == errno.ENOBUFS:
                raise EventsLost from None
            raise
        return parse(raw) if port == 0 else None  # port 0 is the kernel; programs can send to the group too

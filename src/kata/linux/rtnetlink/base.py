"""What the parts of rtnetlink share: the socket, and text and bytes of addresses.

Addresses are text everywhere above this file. Answers of the kernel are read as if they were hostile.
Source: rtnetlink(7); include/uapi/linux/rtnetlink.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct

from kata.linux.netlink import TIMEOUT, NetlinkError, NetlinkSocket, unpack_attributes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

NETLINK_ROUTE = 0
NAME_LIMIT = 15
"""Bytes of an interface's name (IFNAMSIZ without its NUL)."""


class Base:
    """rtnetlink of the network namespace that the calling thread is in when this is made. For one thread."""

    def __init__(self, *, timeout: float = TIMEOUT) -> None:
        self._socket = NetlinkSocket(NETLINK_ROUTE, timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()


def parse_mac(text: str) -> bytes:
    """A hardware address' bytes. Raises ValueError."""
    parts = text.split(":")
    if len(parts) != 6 or any(len(part) != 2 for part in parts):
        raise ValueError(f"{text!r} is no hardware address")
    try:
        return bytes.fromhex("".join(parts))
    except ValueError:
        raise ValueError(f"{text!r} is no hardware address") from None


def format_mac(raw: bytes) -> str:
    """A hardware address as text, lower case."""
    return raw.hex(":")


def parse_ip(family: int, text: str) -> bytes:
    """An IP address' bytes. Raises ValueError."""
    try:
        return socket.inet_pton(family, text)
    except OSError:
        raise ValueError(f"{text!r} is no IPv{4 if family == socket.AF_INET else 6} address") from None


def format_ip(family: int, raw: bytes) -> str:
    """An IP address as text. Raises NetlinkError when its length is wrong."""
    try:
        return socket.inet_ntop(family, raw)
    except ValueError:
        raise NetlinkError(errno.EBADMSG, f"the kernel sent an address of {len(raw)} bytes") from None


def bits(family: int) -> int:
    """How long an address of the family is."""
    return 32 if family == socket.AF_INET else 128


def check_name(name: str) -> str:
    """`name`, when an interface may have it. Raises ValueError.

    The kernel takes a "%" for a pattern that it is to fill in, so that no interface has one in its name.
    """
    if not 0 < len(os.fsencode(name)) <= NAME_LIMIT or any(char in name for char in "\0/%"):
        raise ValueError(f"{name!r} is no interface name")
    return name


def split(layout: struct.Struct, body: bytes) -> tuple[tuple[int, ...], dict[int, bytes]]:
    """A message's fixed part and its attributes. Raises NetlinkError."""
    if len(body) < layout.size:
        raise NetlinkError(errno.EBADMSG, f"the kernel sent {len(body)} bytes where {layout.size} are the least")
    return layout.unpack_from(body), unpack_attributes(body[(layout.size + 3) & ~3 :])


def read_u32(attributes: dict[int, bytes], kind: int) -> int:
    """A number among attributes, 0 when it is not there. Raises NetlinkError."""
    raw = attributes.get(kind, b"\0\0\0\0")
    if len(raw) != 4:
        raise NetlinkError(errno.EBADMSG, f"the kernel sent a number of {len(raw)} bytes")
    return int(struct.unpack("=I", raw)[0])


def read_text(attributes: dict[int, bytes], kind: int) -> str:
    """Text among attributes up to its NUL, empty when it is not there."""
    return os.fsdecode(attributes.get(kind, b"").partition(b"\0")[0])


def read_ip(family: int, attributes: dict[int, bytes], kind: int) -> str:
    """An address among attributes as text, empty when it is not there. Raises NetlinkError."""
    return format_ip(family, attributes[kind]) if kind in attributes else ""

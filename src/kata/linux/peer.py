"""Who is at the other end of a unix socket. Has the C half of `socket` only: a shim's start pays for it."""

from __future__ import annotations

import _socket
import sys

UCRED = 12
"""Bytes of a struct ucred: pid, uid, gid."""


def peer_uid(fd: int) -> int:
    """The user there, as the kernel knows it (SO_PEERCRED, unix(7)). Raises OSError."""
    sock = _socket.socket(fileno=fd)
    try:
        found = sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, UCRED)
    finally:
        sock.detach()
    return int.from_bytes(found[4:8], sys.byteorder)

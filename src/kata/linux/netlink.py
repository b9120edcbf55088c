"""Netlink as a request and answer protocol: framing, attributes, acknowledgements, dumps.

`rtnetlink` builds links, addresses and routes on it; other families (traffic control, generic netlink) can do the
same. Answers are checked as if they were hostile: lengths, sender, sequence number. Every call has a deadline, and
a refusal is an OSError with the kernel's errno and, where it gives one, its sentence. Never add a family here.
Source: Documentation/userspace-api/netlink/intro.rst; include/uapi/linux/netlink.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

NLM_F_REQUEST = 0x1
NLM_F_MULTI = 0x2
NLM_F_ACK = 0x4
NLM_F_DUMP_INTR = 0x10
NLM_F_DUMP = 0x300
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_APPEND = 0x800
NLM_F_CAPPED = 0x100
NLM_F_ACK_TLVS = 0x200

NLMSG_NOOP = 1
NLMSG_ERROR = 2
NLMSG_DONE = 3
NLMSG_OVERRUN = 4

NLA_TYPE_MASK = 0x3FFF
NLA_F_NESTED = 0x8000
_NLMSGERR_ATTR_MSG = 1
_SOL_NETLINK = 270
_NETLINK_EXT_ACK = 11
_NETLINK_GET_STRICT_CHK = 12

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_ERROR = struct.Struct("=i")
_RECEIVE = 1 << 16  # the kernel's dumps use at most 32 KiB a message
_DUMP_TRIES = 10
MAX_ERRNO = 4095  # include/linux/err.h
_LEAST_WAIT = 0.001  # a timeout of 0 would make the socket non-blocking
TIMEOUT = 10.0
"""Seconds for one request; the kernel answers in microseconds, so this only ends what is stuck."""


class NetlinkError(OSError):
    """The kernel refused a request (errno as it gave it), or its answer makes no sense (EBADMSG)."""


class Message(NamedTuple):
    """One message of an answer: its type and what follows the header."""

    kind: int
    body: bytes


def pack_attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    length = _ATTRIBUTE.size + len(value)
    if length > 0xFFFF:
        raise ValueError(f"a netlink attribute of {length} bytes is too long")
    return _ATTRIBUTE.pack(length, kind) + value + bytes(-length % 4)


def pack_nested(kind: int, attributes: Iterable[bytes]) -> bytes:
    """An attribute that holds attributes."""
    return pack_attribute(kind | NLA_F_NESTED, b"".join(attributes))


def pack_u32(kind: int, value: int) -> bytes:
    """An attribute that is a 32-bit number in the machine's order. Raises ValueError when it does not fit."""
    if not 0 <= value <= 0xFFFFFFFF:
        raise ValueError(f"{value} does not fit 32 bits")
    return pack_attribute(kind, struct.pack("=I", value))


def pack_string(kind: int, value: str) -> bytes:
    """An attribute that is text with its final NUL."""
    return pack_attribute(kind, os.fsencode(value) + b"\0")


def unpack_attributes(data: bytes) -> dict[int, bytes]:
    """Attributes by type, the last of a type counts. Raises NetlinkError when a length is impossible."""
    attributes = {}
    for kind, value in iterate_attributes(data):
        attributes[kind] = value
    return attributes


def iterate_attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and value of each attribute, for lists. Raises NetlinkError when a length is impossible."""
    offset = 0
    while len(data) - offset >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size or offset + length > len(data):
            raise NetlinkError(errno.EBADMSG, f"a netlink attribute claims {length} bytes")
        yield kind & NLA_TYPE_MASK, data[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3


def split_messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Type, flags, sequence and body of each message in a datagram. Raises NetlinkError on an impossible length."""
    offset = 0
    while len(data) - offset >= _HEADER.size:
        length, kind, flags, sequence, _port = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size or offset + length > len(data):
            raise NetlinkError(errno.EBADMSG, f"a netlink message claims {length} of {len(data) - offset} bytes")
        yield kind, flags, sequence, data[offset + _HEADER.size : offset + length]
        offset += (length + 3) & ~3


class _Interrupted(Exception):  # noqa: N818 - it never leaves this module
    """What is dumped changed meanwhile: the answer is no consistent picture."""


class NetlinkSocket:
    """A conversation with one netlink family of the network namespace it was made in. Context manager.

    For one thread. `timeout` is seconds for each request or dump.
    """

    def __init__(self, family: int, *, timeout: float = TIMEOUT) -> None:
        self._timeout = timeout
        self._sequence = 0
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
        try:
            self._socket.bind((0, 0))
            for option in (_NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK):
                self._socket.setsockopt(_SOL_NETLINK, option, 1)
        except OSError:
            self._socket.close()
            raise

    def __enter__(self) -> NetlinkSocket:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()

    def request(self, kind: int, body: bytes, flags: int = 0, *, what: str) -> list[Message]:
        """Send a request, wait for its acknowledgement; the messages before that. `what` names it in errors.

        Raises NetlinkError, TimeoutError.
        """
        return self._converse(kind, body, flags | NLM_F_ACK, what)

    def dump(self, kind: int, body: bytes, *, what: str) -> list[Message]:
        """All objects of a kind, asked again when they changed meanwhile. Raises NetlinkError, TimeoutError."""
        for _ in range(_DUMP_TRIES):
            try:
                return self._converse(kind, body, NLM_F_DUMP, what)
            except _Interrupted:
                continue
        raise NetlinkError(errno.EINTR, f"{what}: it kept changing while it was read")

    def _converse(self, kind: int, body: bytes, flags: int, what: str) -> list[Message]:
        deadline = time.monotonic() + self._timeout
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        header = _HEADER.pack(_HEADER.size + len(body), kind, flags | NLM_F_REQUEST, self._sequence, 0)
        self._socket.settimeout(self._timeout)
        self._socket.sendto(header + body, (0, 0))
        answer: list[Message] = []
        interrupted = False
        while True:
            for reply in self._receive(deadline, what):
                kind, flags, body = reply
                interrupted = interrupted or bool(flags & NLM_F_DUMP_INTR)
                if kind in (NLMSG_ERROR, NLMSG_DONE):
                    _raise_refusal(kind, flags, body, what)
                    if interrupted:
                        raise _Interrupted
                    return answer
                if kind == NLMSG_OVERRUN:
                    raise NetlinkError(errno.ENOBUFS, f"{what}: the answer was lost")
                if kind != NLMSG_NOOP:
                    answer.append(Message(kind, body))

    def _receive(self, deadline: float, what: str) -> list[tuple[int, int, bytes]]:
        """The messages of the next datagram that answer our request: type, flags, body."""
        self._socket.settimeout(max(deadline - time.monotonic(), _LEAST_WAIT))
        try:
            data, _, flags, (port, _groups) = self._socket.recvmsg(_RECEIVE)
        except TimeoutError:
            raise TimeoutError(errno.ETIMEDOUT, f"{what}: the kernel did not answer in time") from None
        if flags & socket.MSG_TRUNC:
            raise NetlinkError(errno.EMSGSIZE, f"{what}: the answer is longer than {_RECEIVE} bytes")
        if port != 0:  # not from the kernel: anyone may send to our port
            return []
        return [
            (kind, flags, body) for kind, flags, sequence, body in split_messages(data) if sequence == self._sequence
        ]


def _raise_refusal(kind: int, flags: int, body: bytes, what: str) -> None:
    """Raises NetlinkError when an acknowledgement or the end of a dump carries an error."""
    if len(body) < _ERROR.size:
        if kind == NLMSG_DONE:
            return
        raise NetlinkError(errno.EBADMSG, f"{what}: the acknowledgement is cut short")
    (code,) = _ERROR.unpack_from(body)
    if code >= 0:
        return
    if code < -MAX_ERRNO:
        raise NetlinkError(errno.EBADMSG, f"{what}: the kernel's answer is no error that there is")
    sentence = _extended(kind, flags, body)
    text = os.strerror(-code)
    raise NetlinkError(-code, f"{what}: {text} ({sentence})" if sentence else f"{what}: {text}")


def _extended(kind: int, flags: int, body: bytes) -> str:
    """The kernel's own words behind an error, or nothing."""
    if not flags & NLM_F_ACK_TLVS:
        return ""
    start = _ERROR.size
    if kind == NLMSG_ERROR:
        start += _HEADER.size
        if not flags & NLM_F_CAPPED and len(body) >= start:  # our whole request comes back
            (length,) = struct.unpack_from("=I", body, _ERROR.size)
            start = _ERROR.size + ((length + 3) & ~3)
    try:
        text = unpack_attributes(body[start:]).get(_NLMSGERR_ATTR_MSG, b"")
    except NetlinkError:  # the words are an extra: the error itself is what counts
        return ""
    return text.rstrip(b"\0").decode("utf-8", "replace")

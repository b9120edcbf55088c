"""Netlink messages, as the kernel sends them: of links, addresses, routes and neighbours."""

from __future__ import annotations

import socket
import struct

from kata.linux.netlink import (
    NLMSG_DONE,
    NLMSG_ERROR,
    NetlinkError,
    _raise_refusal,
    iterate_attributes,
    pack_attribute,
    pack_nested,
    pack_string,
    pack_u32,
    split_messages,
    unpack_attributes,
)
from kata.linux.rtnetlink.addresses import RTM_NEWADDR, read_address
from kata.linux.rtnetlink.links import LINK, RTM_NEWLINK, read_link
from kata.linux.rtnetlink.neighbours import RTM_NEWNEIGH, read_neighbour
from kata.linux.rtnetlink.routes import RTM_NEWROUTE, read_routes

READERS = {
    RTM_NEWLINK: read_link,
    RTM_NEWADDR: read_address,
    RTM_NEWROUTE: read_routes,
    RTM_NEWNEIGH: read_neighbour,
}


def _message(kind: int, body: bytes, flags: int = 2) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body


_LINK = LINK.pack(0, 1, 2, 3, 4) + pack_string(3, "eth0") + pack_u32(4, 1500) + pack_attribute(1, b"\2\0\0\0\0\1")
_ADDRESS = struct.pack("=BBBBI", socket.AF_INET, 24, 0, 0, 2) + pack_attribute(2, b"\x0a\0\0\1")
_ROUTE = struct.pack("=BBBBBBBBI", socket.AF_INET6, 64, 0, 0, 254, 3, 0, 1, 0) + pack_attribute(1, bytes(16))
_NEIGHBOUR = struct.pack("=BxxxiHBB", socket.AF_INET, 2, 128, 0, 0) + pack_attribute(1, b"\x0a\0\0\2")
SEEDS = (
    _message(RTM_NEWLINK, _LINK + pack_nested(18, [pack_string(1, "veth"), pack_attribute(2, b"abcd")])),
    _message(RTM_NEWADDR, _ADDRESS) + _message(RTM_NEWROUTE, _ROUTE + pack_u32(4, 2) + pack_attribute(5, bytes(16))),
    _message(RTM_NEWNEIGH, _NEIGHBOUR + pack_attribute(2, b"\2\0\0\0\0\1")),
    _message(NLMSG_ERROR, struct.pack("=i", -17) + bytes(16) + pack_string(1, "it is there"), 0x300),
    _message(NLMSG_DONE, struct.pack("=i", 0)),
)
TOKENS = (b"\x10\0\0\0", b"\0\0\0\0", b"\x04\0", b"\x0a\0\0\0", b"\x02\0", b"\xff\xff\xff\xff")


def target(data: bytes) -> None:
    """Nothing but NetlinkError, and attributes that are written again are read as they were."""
    try:
        for kind, flags, _sequence, body in split_messages(data):
            _read(kind, flags, body)
    except NetlinkError as error:
        assert error.strerror


def _read(kind: int, flags: int, body: bytes) -> None:
    if kind in (NLMSG_ERROR, NLMSG_DONE):
        _raise_refusal(kind, flags, body, "a request")
    elif kind in READERS:
        READERS[kind](body)
    found = list(iterate_attributes(body))
    written = b"".join(pack_attribute(kind, value) for kind, value in found)
    assert list(iterate_attributes(written)) == found
    assert unpack_attributes(written) == dict(found)

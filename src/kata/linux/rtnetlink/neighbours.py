"""Neighbours: what hardware address an IP address has. One part of `Rtnetlink`."""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

from kata.linux.netlink import NLM_F_CREATE, NLM_F_REPLACE, pack_attribute
from kata.linux.rtnetlink.base import Base, format_ip, format_mac, parse_ip, parse_mac, split

RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
NDA_DST, NDA_LLADDR = 1, 2
NUD_REACHABLE = 0x02
NUD_PERMANENT = 0x80

_NEIGHBOUR = struct.Struct("=BxxxiHBB")  # ndmsg: family, index, state, flags, type


class Neighbour(NamedTuple):
    """What hardware address an IP address of a neighbour has."""

    ifindex: int
    family: int
    address: str
    mac: str
    state: int = NUD_PERMANENT
    flags: int = 0


class Neighbours(Base):
    """Listing and changing neighbours."""

    def list_neighbours(self, index: int = 0) -> list[Neighbour]:
        """The neighbours known, of all interfaces or of one."""
        replies = self._socket.dump(RTM_GETNEIGH, _NEIGHBOUR.pack(0, 0, 0, 0, 0), what="list neighbours")
        found = [read_neighbour(reply.body) for reply in replies if reply.kind == RTM_NEWNEIGH]
        return [entry for entry in found if entry and (not index or entry.ifindex == index)]

    def add_neighbour(self, neighbour: Neighbour) -> None:
        """Add a neighbour or replace what is known of it."""
        body = _NEIGHBOUR.pack(neighbour.family, neighbour.ifindex, neighbour.state, neighbour.flags, 0)
        body += pack_attribute(NDA_DST, parse_ip(neighbour.family, neighbour.address))
        if neighbour.mac:
            body += pack_attribute(NDA_LLADDR, parse_mac(neighbour.mac))
        what = f"add neighbour {neighbour.address}"
        self._socket.request(RTM_NEWNEIGH, body, NLM_F_CREATE | NLM_F_REPLACE, what=what)


def read_neighbour(body: bytes) -> Neighbour | None:
    """A neighbour from the kernel's message, None when it is no IP neighbour. Raises NetlinkError."""
    (family, index, state, flags, _type), attributes = split(_NEIGHBOUR, body)
    if family not in (socket.AF_INET, socket.AF_INET6) or NDA_DST not in attributes:
        return None
    return Neighbour(
        index,
        family,
        format_ip(family, attributes[NDA_DST]),
        format_mac(attributes.get(NDA_LLADDR, b"")),
        state,
        flags,
    )

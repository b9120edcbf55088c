"""Links, addresses, routes and neighbours of a network namespace, by rtnetlink(7).

Called by the agent's interfaces and by the sandbox's network. Values in, values out: no cache, no policy, and
addresses as text. Traffic control and the making of veth and tap links belong in modules of their own on top of
`netlink`. Never read the configuration of anything here.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import NamedTuple

from kata.linux.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    TIMEOUT,
    NetlinkError,
    NetlinkSocket,
    pack_attribute,
    pack_nested,
    pack_string,
    pack_u32,
    unpack_attributes,
)

NETLINK_ROUTE = 0
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30

IFF_UP = 0x1
IFF_LOOPBACK = 0x8
IFF_NOARP = 0x80
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINKINFO = 1, 3, 4, 18
IFLA_INFO_KIND = 1
IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS = 1, 2, 8
IFA_F_NODAD = 0x02
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC, RTA_METRICS, RTA_TABLE = 1, 4, 5, 6, 7, 8, 15
RTAX_MTU = 2
RT_TABLE_MAIN = 254
RTPROT_BOOT = 3
RTN_UNICAST = 1
NDA_DST, NDA_LLADDR = 1, 2
NUD_PERMANENT = 0x80
NAME_LIMIT = 15
"""Bytes of an interface's name (IFNAMSIZ without its NUL)."""

_LINK = struct.Struct("=BxHiII")  # ifinfomsg: family, type, index, flags, change
_ADDRESS = struct.Struct("=BBBBI")  # ifaddrmsg: family, prefix, flags, scope, index
_ROUTE = struct.Struct("=BBBBBBBBI")  # rtmsg: family, dst, src, tos, table, protocol, scope, type, flags
_NEIGHBOUR = struct.Struct("=BxxxiHBB")  # ndmsg: family, index, state, flags, type


class Link(NamedTuple):
    """A network interface. `kind` is veth, tun, ... and empty for hardware; `mac` is empty where there is none."""

    ifindex: int
    name: str
    mac: str
    mtu: int
    flags: int
    kind: str = ""


class Address(NamedTuple):
    """An IP address of an interface. `family` is AF_INET or AF_INET6."""

    ifindex: int
    family: int
    address: str
    prefix: int
    scope: int = 0


class Route(NamedTuple):
    """A route. An empty `destination` is the default route; `ifindex` 0 leaves the interface to the gateway."""

    family: int
    destination: str = ""
    prefix: int = 0
    gateway: str = ""
    ifindex: int = 0
    source: str = ""
    scope: int = 0
    flags: int = 0
    mtu: int = 0
    metric: int = 0
    table: int = RT_TABLE_MAIN
    protocol: int = RTPROT_BOOT
    type: int = RTN_UNICAST


class Neighbour(NamedTuple):
    """What hardware address an IP address of a neighbour has."""

    ifindex: int
    family: int
    address: str
    mac: str
    state: int = NUD_PERMANENT
    flags: int = 0


class Rtnetlink:
    """rtnetlink of the current network namespace. Context manager; for one thread.

    Every method raises NetlinkError (an OSError) with the kernel's errno, ValueError for arguments that make no
    sense, TimeoutError when the kernel does not answer.
    """

    def __init__(self, *, timeout: float = TIMEOUT) -> None:
        self._socket = NetlinkSocket(NETLINK_ROUTE, timeout=timeout)

    def __enter__(self) -> Rtnetlink:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()

    # Section: links

    def list_links(self) -> list[Link]:
        """All interfaces, by index."""
        replies = self._socket.dump(RTM_GETLINK, _LINK.pack(0, 0, 0, 0, 0), what="list interfaces")
        return sorted(_read_link(reply.body) for reply in replies if reply.kind == RTM_NEWLINK)

    def find_link(self, name: str) -> Link | None:
        """The interface of this name."""
        return next((link for link in self.list_links() if link.name == name), None)

    def find_link_by_mac(self, mac: str) -> Link | None:
        """The first interface with this hardware address."""
        wanted = format_mac(parse_mac(mac))
        return next((link for link in self.list_links() if link.mac == wanted), None)

    def set_flags(self, index: int, flags: int, mask: int) -> None:
        """Set the bits of `mask` to what `flags` has, e.g. IFF_UP."""
        self._change_link(index, b"", f"set the flags of interface {index}", flags, mask)

    def set_up(self, index: int) -> None:
        """Bring an interface up."""
        self.set_flags(index, IFF_UP, IFF_UP)

    def set_down(self, index: int) -> None:
        """Take an interface down."""
        self.set_flags(index, 0, IFF_UP)

    def set_mtu(self, index: int, mtu: int) -> None:
        """The largest packet, in bytes."""
        self._change_link(index, pack_u32(IFLA_MTU, mtu), f"set MTU {mtu} of interface {index}")

    def set_mac(self, index: int, mac: str) -> None:
        """The hardware address."""
        self._change_link(
            index, pack_attribute(IFLA_ADDRESS, parse_mac(mac)), f"set address {mac} of interface {index}"
        )

    def set_name(self, index: int, name: str) -> None:
        """The name; at most NAME_LIMIT bytes."""
        if not 0 < len(os.fsencode(name)) <= NAME_LIMIT or "\0" in name or "/" in name:
            raise ValueError(f"{name!r} is no interface name")
        self._change_link(index, pack_string(IFLA_IFNAME, name), f"name interface {index} {name}")

    def _change_link(self, index: int, attributes: bytes, what: str, flags: int = 0, mask: int = 0) -> None:
        self._socket.request(RTM_NEWLINK, _LINK.pack(0, 0, index, flags, mask) + attributes, what=what)

    # Section: addresses

    def list_addresses(self, index: int = 0) -> list[Address]:
        """The addresses of all interfaces, or of one."""
        body = _ADDRESS.pack(0, 0, 0, 0, index)
        replies = self._socket.dump(RTM_GETADDR, body, what="list addresses")
        found = [_read_address(reply.body) for reply in replies if reply.kind == RTM_NEWADDR]
        return [address for address in found if address and (not index or address.ifindex == index)]

    def add_address(self, address: Address) -> None:
        """Give an interface an address; one that it has already is fine.

        IPv6 addresses skip duplicate detection: whoever assigns them has done it, and until it ends they are of
        no use to a workload.
        """
        raw = parse_ip(address.family, address.address)
        attributes = pack_attribute(IFA_LOCAL, raw) + pack_attribute(IFA_ADDRESS, raw)
        if address.family == socket.AF_INET6:
            attributes += pack_u32(IFA_FLAGS, IFA_F_NODAD)
        what = f"add address {address.address}/{address.prefix}"
        self._socket.request(RTM_NEWADDR, _pack_address(address) + attributes, NLM_F_CREATE | NLM_F_REPLACE, what=what)

    def remove_address(self, address: Address) -> None:
        """Take an address from an interface."""
        raw = parse_ip(address.family, address.address)
        attributes = pack_attribute(IFA_LOCAL, raw) + pack_attribute(IFA_ADDRESS, raw)
        what = f"remove address {address.address}/{address.prefix}"
        self._socket.request(RTM_DELADDR, _pack_address(address) + attributes, what=what)

    def flush_addresses(self, index: int) -> None:
        """Take all addresses from an interface; secondary ones may go with their primary."""
        for address in self.list_addresses(index):
            try:
                self.remove_address(address)
            except NetlinkError as error:
                if error.errno != errno.EADDRNOTAVAIL:
                    raise

    # Section: routes

    def list_routes(self, table: int = RT_TABLE_MAIN) -> list[Route]:
        """The routes of one table, IPv4 first."""
        routes = []
        for family in (socket.AF_INET, socket.AF_INET6):
            body = _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
            replies = self._socket.dump(RTM_GETROUTE, body, what="list routes")
            routes += [_read_route(reply.body) for reply in replies if reply.kind == RTM_NEWROUTE]
        return [route for route in routes if route.table == table]

    def add_route(self, route: Route) -> None:
        """Add a route. Raises NetlinkError EEXIST when it is there."""
        self._put_route(route, NLM_F_CREATE | NLM_F_EXCL, "add")

    def replace_route(self, route: Route) -> None:
        """Add a route, in place of the one to the same destination."""
        self._put_route(route, NLM_F_CREATE | NLM_F_REPLACE, "replace")

    def _put_route(self, route: Route, flags: int, verb: str) -> None:
        what = f"{verb} route to {route.destination or 'default'}" + (f" via {route.gateway}" if route.gateway else "")
        self._socket.request(RTM_NEWROUTE, _pack_route(route), flags, what=what)

    # Section: neighbours

    def list_neighbours(self, index: int = 0) -> list[Neighbour]:
        """The neighbours known, of all interfaces or of one."""
        replies = self._socket.dump(RTM_GETNEIGH, _NEIGHBOUR.pack(0, 0, 0, 0, 0), what="list neighbours")
        found = [_read_neighbour(reply.body) for reply in replies if reply.kind == RTM_NEWNEIGH]
        return [entry for entry in found if entry and (not index or entry.ifindex == index)]

    def add_neighbour(self, neighbour: Neighbour) -> None:
        """Add a neighbour or replace what is known of it."""
        body = _NEIGHBOUR.pack(neighbour.family, neighbour.ifindex, neighbour.state, neighbour.flags, 0)
        body += pack_attribute(NDA_DST, parse_ip(neighbour.family, neighbour.address))
        if neighbour.mac:
            body += pack_attribute(NDA_LLADDR, parse_mac(neighbour.mac))
        what = f"add neighbour {neighbour.address}"
        self._socket.request(RTM_NEWNEIGH, body, NLM_F_CREATE | NLM_F_REPLACE, what=what)


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


def _split(layout: struct.Struct, body: bytes) -> tuple[tuple[int, ...], dict[int, bytes]]:
    """A message's fixed part and its attributes. Raises NetlinkError."""
    if len(body) < layout.size:
        raise NetlinkError(errno.EBADMSG, f"the kernel sent {len(body)} bytes where {layout.size} are the least")
    return layout.unpack_from(body), unpack_attributes(body[(layout.size + 3) & ~3 :])


def _u32(attributes: dict[int, bytes], kind: int) -> int:
    raw = attributes.get(kind, b"\0\0\0\0")
    if len(raw) != 4:
        raise NetlinkError(errno.EBADMSG, f"the kernel sent a number of {len(raw)} bytes")
    return int(struct.unpack("=I", raw)[0])


def _text(attributes: dict[int, bytes], kind: int) -> str:
    return os.fsdecode(attributes.get(kind, b"").partition(b"\0")[0])


def _read_link(body: bytes) -> Link:
    (_family, _type, index, flags, _change), attributes = _split(_LINK, body)
    info = unpack_attributes(attributes.get(IFLA_LINKINFO, b""))
    return Link(
        index,
        _text(attributes, IFLA_IFNAME),
        format_mac(attributes.get(IFLA_ADDRESS, b"")),
        _u32(attributes, IFLA_MTU),
        flags,
        _text(info, IFLA_INFO_KIND),
    )


def _pack_address(address: Address) -> bytes:
    if not 0 <= address.prefix <= _bits(address.family):
        raise ValueError(f"/{address.prefix} is no prefix of {address.address}")
    return _ADDRESS.pack(address.family, address.prefix, 0, address.scope, address.ifindex)


def _read_address(body: bytes) -> Address | None:
    (family, prefix, _flags, scope, index), attributes = _split(_ADDRESS, body)
    raw = attributes.get(IFA_LOCAL) or attributes.get(IFA_ADDRESS)  # on point-to-point links the second is the peer's
    if family not in (socket.AF_INET, socket.AF_INET6) or not raw:
        return None
    return Address(index, family, format_ip(family, raw), prefix, scope)


def _pack_route(route: Route) -> bytes:
    if not 0 <= route.prefix <= _bits(route.family):
        raise ValueError(f"/{route.prefix} is no prefix of {route.destination}")
    prefix = route.prefix if route.destination else 0
    table = route.table if route.table < 256 else 0
    body = _ROUTE.pack(route.family, prefix, 0, 0, table, route.protocol, route.scope, route.type, route.flags)
    for kind, text in ((RTA_DST, route.destination), (RTA_GATEWAY, route.gateway), (RTA_PREFSRC, route.source)):
        if text:
            body += pack_attribute(kind, parse_ip(route.family, text))
    for kind, number in ((RTA_OIF, route.ifindex), (RTA_PRIORITY, route.metric)):
        if number:
            body += pack_u32(kind, number)
    if not table:
        body += pack_u32(RTA_TABLE, route.table)
    if route.mtu:
        body += pack_nested(RTA_METRICS, [pack_u32(RTAX_MTU, route.mtu)])
    return body


def _read_route(body: bytes) -> Route:
    fixed, attributes = _split(_ROUTE, body)
    family, prefix, _src, _tos, table, protocol, scope, kind, flags = fixed
    metrics = unpack_attributes(attributes.get(RTA_METRICS, b""))
    return Route(
        family,
        _ip(family, attributes, RTA_DST),
        prefix,
        _ip(family, attributes, RTA_GATEWAY),
        _u32(attributes, RTA_OIF),
        _ip(family, attributes, RTA_PREFSRC),
        scope,
        flags,
        _u32(metrics, RTAX_MTU),
        _u32(attributes, RTA_PRIORITY),
        _u32(attributes, RTA_TABLE) or table,
        protocol,
        kind,
    )


def _ip(family: int, attributes: dict[int, bytes], kind: int) -> str:
    return format_ip(family, attributes[kind]) if kind in attributes else ""


def _read_neighbour(body: bytes) -> Neighbour | None:
    (family, index, state, flags, _type), attributes = _split(_NEIGHBOUR, body)
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


def _bits(family: int) -> int:
    return 32 if family == socket.AF_INET else 128

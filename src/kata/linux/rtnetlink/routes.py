"""Routes. One part of `Rtnetlink`."""

from __future__ import annotations

import errno
import socket
import struct
from typing import NamedTuple

from kata.linux.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    NetlinkError,
    pack_attribute,
    pack_nested,
    pack_u32,
    unpack_attributes,
)
from kata.linux.rtnetlink.base import Base, bits, format_ip, parse_ip, read_ip, read_u32, split

RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC, RTA_METRICS = 1, 4, 5, 6, 7, 8
RTA_MULTIPATH, RTA_TABLE, RTA_VIA = 9, 15, 18
RTAX_MTU = 2
RT_TABLE_MAIN = 254
RTPROT_KERNEL, RTPROT_BOOT = 2, 3
RTN_UNICAST = 1
RTNH_F_ONLINK = 4

_ROUTE = struct.Struct("=BBBBBBBBI")  # rtmsg: family, dst, src, tos, table, protocol, scope, type, flags
_HOP = struct.Struct("=HBBi")  # rtnexthop: length, flags, weight less one, index
_VIA = struct.Struct("=H")  # rtvia: family, then the address


class Route(NamedTuple):
    """A route. An empty `destination` is the default route; `ifindex` 0 leaves the interface to the gateway.

    The gateway of an IPv4 route may be an IPv6 address (RFC 5549). `flags` holds RTNH_F_ONLINK and its kin.
    """

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


class Routes(Base):
    """Listing and changing routes."""

    def list_routes(self, table: int = RT_TABLE_MAIN) -> list[Route]:
        """The routes of one table, IPv4 first. Of a route with several next hops there is one for each."""
        routes = []
        for family in (socket.AF_INET, socket.AF_INET6):
            body = _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
            replies = self._socket.dump(RTM_GETROUTE, body, what="list routes")
            routes += [route for reply in replies if reply.kind == RTM_NEWROUTE for route in read_routes(reply.body)]
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


def _pack_route(route: Route) -> bytes:
    if not 0 <= route.prefix <= bits(route.family):
        raise ValueError(f"/{route.prefix} is no prefix of {route.destination}")
    prefix = route.prefix if route.destination else 0
    table = route.table if route.table < 256 else 0
    body = _ROUTE.pack(route.family, prefix, 0, 0, table, route.protocol, route.scope, route.type, route.flags)
    for kind, text in ((RTA_DST, route.destination), (RTA_PREFSRC, route.source)):
        if text:
            body += pack_attribute(kind, parse_ip(route.family, text))
    if route.gateway:
        body += _pack_gateway(route)
    for kind, number in ((RTA_OIF, route.ifindex), (RTA_PRIORITY, route.metric)):
        if number:
            body += pack_u32(kind, number)
    if not table:
        body += pack_u32(RTA_TABLE, route.table)
    if route.mtu:
        body += pack_nested(RTA_METRICS, [pack_u32(RTAX_MTU, route.mtu)])
    return body


def _pack_gateway(route: Route) -> bytes:
    if route.family == socket.AF_INET and ":" in route.gateway:
        return pack_attribute(RTA_VIA, _VIA.pack(socket.AF_INET6) + parse_ip(socket.AF_INET6, route.gateway))
    return pack_attribute(RTA_GATEWAY, parse_ip(route.family, route.gateway))


def read_routes(body: bytes) -> list[Route]:
    """A route from the kernel's message, once for each of its next hops. Raises NetlinkError."""
    fixed, attributes = split(_ROUTE, body)
    family, prefix, _src, _tos, table, protocol, scope, kind, flags = fixed
    metrics = unpack_attributes(attributes.get(RTA_METRICS, b""))
    route = Route(
        family,
        read_ip(family, attributes, RTA_DST),
        prefix,
        _read_gateway(family, attributes),
        read_u32(attributes, RTA_OIF),
        read_ip(family, attributes, RTA_PREFSRC),
        scope,
        flags,
        read_u32(metrics, RTAX_MTU),
        read_u32(attributes, RTA_PRIORITY),
        read_u32(attributes, RTA_TABLE) or table,
        protocol,
        kind,
    )
    return _read_hops(route, attributes[RTA_MULTIPATH]) if RTA_MULTIPATH in attributes else [route]


def _read_hops(route: Route, data: bytes) -> list[Route]:
    hops = []
    while data:
        if len(data) < _HOP.size:
            raise NetlinkError(errno.EBADMSG, f"the kernel sent a next hop of {len(data)} bytes")
        length, flags, _weight, index = _HOP.unpack_from(data)
        if not _HOP.size <= length <= len(data):
            raise NetlinkError(errno.EBADMSG, f"a next hop claims {length} of {len(data)} bytes")
        attributes = unpack_attributes(data[_HOP.size : length])
        gateway = _read_gateway(route.family, attributes)
        hops.append(route._replace(gateway=gateway, ifindex=index, flags=route.flags | flags))
        data = data[(length + 3) & ~3 :]
    return hops


def _read_gateway(family: int, attributes: dict[int, bytes]) -> str:
    via = attributes.get(RTA_VIA, b"")
    if len(via) > _VIA.size:
        (family,) = _VIA.unpack_from(via)
        if family not in (socket.AF_INET, socket.AF_INET6):
            raise NetlinkError(errno.EBADMSG, f"the kernel sent a gateway of family {family}")
        return format_ip(family, via[_VIA.size :])
    return read_ip(family, attributes, RTA_GATEWAY)

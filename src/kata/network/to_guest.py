"""Endpoints as the agent's messages: pure functions, and the rules of what a guest is told.

Called by the sandbox for UpdateInterface, UpdateRoutes and AddARPNeighbors, in this order. Name servers are no
part of an interface and come from elsewhere.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from kata.linux.rtnetlink import IFF_NOARP, RTNH_F_ONLINK, Address, Neighbour, Route, parse_ip
from kata.protocol.generated import types_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kata.network.endpoint import Endpoint

_LINK_LOCAL = b"\xfe\x80"


def interface(endpoint: Endpoint) -> types_pb2.Interface:
    """The guest's interface: found by its MAC address, then named and addressed like the pod's.

    IPv6 link-local addresses are left out: the guest makes its own from the same MAC address.
    """
    return types_pb2.Interface(
        device=endpoint.name,
        name=endpoint.name,
        IPAddresses=[_address(entry) for entry in endpoint.addresses if not is_link_local(entry)],
        mtu=endpoint.mtu,
        hwAddr=endpoint.mac,
        type=endpoint.kind,
        raw_flags=endpoint.flags & IFF_NOARP,
    )


def routes(endpoints: Iterable[Endpoint]) -> list[types_pb2.Route]:
    """All endpoints' routes in the order in which they can be added.

    The protocol knows neither metrics nor several next hops, and a route takes the place of another to the same
    destination. So of several the one with the lowest metric is sent, or the first next hop. Of the flags, onlink
    says something about the route; the others (dead, linkdown, offload) are about the host at this moment.
    """
    named = [(endpoint.name, route) for endpoint in endpoints for route in endpoint.routes]
    best: dict[tuple[int, str, int], tuple[str, Route]] = {}
    for name, route in sorted(named, key=lambda entry: entry[1].metric):
        best.setdefault((route.family, route.destination, route.prefix), (name, route))
    ordered = sorted(best.values(), key=lambda entry: (bool(entry[1].gateway), not entry[1].destination))
    return [_route(name, route) for name, route in ordered]


def neighbours(endpoints: Iterable[Endpoint]) -> list[types_pb2.ARPNeighbor]:
    """All endpoints' neighbours, with the state that they have on the host."""
    return [_neighbour(endpoint.name, entry) for endpoint in endpoints for entry in endpoint.neighbours]


def is_link_local(address: Address) -> bool:
    """Whether this is an IPv6 link-local address (fe80::/64, RFC 4291 2.5.6)."""
    return address.family == socket.AF_INET6 and parse_ip(address.family, address.address)[:2] == _LINK_LOCAL


def _address(address: Address) -> types_pb2.IPAddress:
    return types_pb2.IPAddress(family=_family(address.family), address=address.address, mask=str(address.prefix))


def _route(name: str, route: Route) -> types_pb2.Route:
    return types_pb2.Route(
        dest=f"{route.destination}/{route.prefix}" if route.destination else "",
        gateway=route.gateway,
        device=name,
        source=route.source,
        scope=route.scope,
        family=_family(route.family),
        flags=route.flags & RTNH_F_ONLINK,
        mtu=route.mtu,
    )


def _neighbour(name: str, neighbour: Neighbour) -> types_pb2.ARPNeighbor:
    target = types_pb2.IPAddress(family=_family(neighbour.family), address=neighbour.address)
    return types_pb2.ARPNeighbor(
        toIPAddress=target, device=name, lladdr=neighbour.mac, state=neighbour.state, flags=neighbour.flags
    )


def _family(family: int) -> types_pb2.IPFamily.ValueType:
    return types_pb2.IPFamily.v6 if family == socket.AF_INET6 else types_pb2.IPFamily.v4

"""What the agent is told of an endpoint, field by field."""

from __future__ import annotations

import socket

import pytest

from kata.linux.rtnetlink import IFF_NOARP, Address, Neighbour, Route
from kata.network import to_guest
from kata.network.endpoint import Endpoint
from kata.protocol.generated import types_pb2

V4, V6 = socket.AF_INET, socket.AF_INET6


def endpoint(name: str = "eth0", *routes: Route, **fields: object) -> Endpoint:
    values = {"index": 2, "mac": "02:00:00:00:00:02", "mtu": 1450, "kind": "veth", "flags": 0x1043, **fields}
    return Endpoint(name=name, routes=routes, **values)  # type: ignore[arg-type]  # of the types above


def sent(*endpoints: Endpoint) -> list[tuple[str, str, str]]:
    return [(route.device, route.dest, route.gateway) for route in to_guest.routes(endpoints)]


def test_an_interface() -> None:
    addresses = (
        Address(2, V4, "10.1.2.3", 24),
        Address(2, V6, "fd00::5", 64),
        Address(2, V6, "fe80::1", 64),
        Address(2, V4, "169.254.1.1", 16),
    )
    message = to_guest.interface(endpoint(addresses=addresses))
    assert message == types_pb2.Interface(
        device="eth0",
        name="eth0",
        mtu=1450,
        hwAddr="02:00:00:00:00:02",
        type="veth",
        IPAddresses=[
            types_pb2.IPAddress(family=types_pb2.IPFamily.v4, address="10.1.2.3", mask="24"),
            types_pb2.IPAddress(family=types_pb2.IPFamily.v6, address="fd00::5", mask="64"),
            types_pb2.IPAddress(family=types_pb2.IPFamily.v4, address="169.254.1.1", mask="16"),
        ],
    )
    assert to_guest.interface(endpoint(flags=0x1043 | IFF_NOARP)).raw_flags == IFF_NOARP


def test_every_field_of_a_route() -> None:
    route = Route(V6, "fd09::", 48, "fd00::1", 2, "fd00::5", scope=0, flags=0x4 | 0x10, mtu=1300, metric=1024)
    (message,) = to_guest.routes([endpoint("eth0", route)])
    assert message == types_pb2.Route(
        dest="fd09::/48",
        gateway="fd00::1",
        device="eth0",
        source="fd00::5",
        family=types_pb2.IPFamily.v6,
        flags=0x4,  # onlink; that the link was down a moment ago is no property of the route
        mtu=1300,
    )


def test_routes_come_in_an_order_that_can_be_added() -> None:
    routes = (
        Route(V4, "", 0, "10.1.1.1"),
        Route(V4, "10.9.0.0", 16, "10.8.0.1"),
        Route(V4, "10.8.0.0", 24, scope=253),
        Route(V6, "", 0, "fd00::1"),
        Route(V6, "fd00::1", 128),
    )
    order = [dest for _, dest, _ in sent(endpoint("eth0", *routes))]
    assert order == ["10.8.0.0/24", "fd00::1/128", "10.9.0.0/16", "", ""]


def test_one_route_to_a_destination() -> None:
    worse = Route(V4, "", 0, "10.2.0.1", metric=100)
    hops = (Route(V4, "10.9.0.0", 16, "10.1.0.7"), Route(V4, "10.9.0.0", 16, "10.1.0.8"))
    assert sent(endpoint("net1", worse), endpoint("eth0", Route(V4, "", 0, "10.1.0.1"), *hops)) == [
        ("eth0", "10.9.0.0/16", "10.1.0.7"),
        ("eth0", "", "10.1.0.1"),
    ]


def test_the_two_default_routes_are_two() -> None:
    assert len(sent(endpoint("eth0", Route(V4, gateway="10.1.0.1"), Route(V6, gateway="fd00::1")))) == 2


def test_a_neighbour() -> None:
    known = Neighbour(2, V6, "fd00::9", "02:00:00:00:00:09", 0x80, 0x80)
    (message,) = to_guest.neighbours([endpoint(neighbours=(known,))])
    assert message == types_pb2.ARPNeighbor(
        toIPAddress=types_pb2.IPAddress(family=types_pb2.IPFamily.v6, address="fd00::9"),
        device="eth0",
        lladdr="02:00:00:00:00:09",
        state=0x80,
        flags=0x80,
    )


@pytest.mark.parametrize(
    ("family", "text", "expected"),
    [(V6, "fe80::1", True), (V6, "fe81::1", False), (V6, "::fe80", False), (V4, "254.128.0.1", False)],
)
def test_link_local(family: int, text: str, expected: bool) -> None:
    assert to_guest.is_link_local(Address(2, family, text, 64 if family == V6 else 24)) is expected

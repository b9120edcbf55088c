"""What has become of a pod's interfaces, as far as its guest can follow it."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Any

from kata.linux.rtnetlink import Address, Route
from kata.network.endpoint import Endpoint
from kata.network.watch import Changes, Seen, changes, key

ADDRESS = Address(2, socket.AF_INET, "10.0.0.2", 24)
LINK_LOCAL = Address(2, socket.AF_INET6, "fe80::2", 64)
DEFAULT = Route(socket.AF_INET, "", 0, gateway="10.0.0.1", ifindex=2)


def endpoint(name: str = "eth0", index: int = 2, **fields: Any) -> Endpoint:
    values = {"mac": "02:00:00:00:00:02", "mtu": 1500, "kind": "veth", "flags": 0, "addresses": (ADDRESS,), **fields}
    return Endpoint(name=name, index=index, **values)


def seen(*endpoints: Endpoint, more: Iterable[tuple[int, str]] = ()) -> Seen:
    return Seen(endpoints, frozenset({*map(key, endpoints), *more}))


def test_interfaces_that_come_and_go() -> None:
    one, two = endpoint(), endpoint("eth1", 3)
    assert not changes((one, two), seen(two, one))
    assert changes((one,), seen(two)) == Changes(added=(two,), removed=(one,))
    again = endpoint("eth0", 9)  # another interface, which has the name of the first
    assert changes((one,), seen(again)) == Changes(added=(again,), removed=(one,))
    renamed = endpoint("net0", 2)
    assert changes((one,), seen(renamed)) == Changes(added=(renamed,), removed=(one,))


def test_one_without_addresses_is_still_there() -> None:
    assert not changes((endpoint(),), seen(more=[(2, "eth0")]))


def test_a_pci_device_that_a_machine_has_is_not_missed() -> None:
    assert not changes((endpoint(kind="physical", pci_address="0000:5e:00.1"),), seen())


def test_what_is_configured_later() -> None:
    other = Address(2, socket.AF_INET, "10.0.0.3", 24)
    joined = endpoint(mac="02:00:00:00:00:99", flags=0x80, addresses=(ADDRESS, other), routes=(DEFAULT,))  # a macvtap's
    expected = endpoint(addresses=(ADDRESS, other), routes=(DEFAULT,))
    assert changes((endpoint(),), seen(joined)) == Changes(changed=(expected,))


def test_what_the_kernel_does_by_itself_is_no_change() -> None:
    assert not changes((endpoint(),), seen(endpoint(addresses=(LINK_LOCAL, ADDRESS), mtu=9000)))

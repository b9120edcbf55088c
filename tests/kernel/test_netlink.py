"""rtnetlink and the agent's interfaces against a real kernel, with pyroute2 as the second opinion."""

from __future__ import annotations

import errno
import functools
import os
import socket
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from pyroute2 import IPRoute

from kata.agent import interfaces
from kata.agent.devices.hotplug import Hotplug
from kata.agent.interfaces import InterfaceError, InvalidNetwork
from kata.agent.uevents import Uevents
from kata.linux import rtnetlink, syscalls
from kata.linux.netlink import NetlinkError
from kata.linux.rtnetlink import Address, Neighbour, Route, Rtnetlink
from kata.linux.uevent import NETLINK_KOBJECT_UEVENT, UeventSocket
from kata.protocol.generated import types_pb2
from tests.kernel.namespaces import run_in_namespaces

pytestmark = pytest.mark.root
V4, V6 = socket.AF_INET, socket.AF_INET6
MAC = "02:00:ca:fe:00:01"


def ip(command: str) -> None:
    subprocess.run(["ip", *command.split()], check=True, capture_output=True)


def in_netns(test: Callable[[], None]) -> Callable[[], None]:
    """A fresh network namespace with a veth pair `one` (MAC above) and `two`."""

    def body() -> None:
        ip(f"link add one address {MAC} type veth peer name two")
        ip("link set lo up")
        ip("link set two up")
        test()

    @functools.wraps(test)
    def wrapped() -> None:
        run_in_namespaces(body, syscalls.CLONE_NEWNET)

    return wrapped


def attributes(entry: Any) -> dict[str, Any]:
    return dict(entry["attrs"])


@in_netns
def test_links_as_pyroute2_sees_them() -> None:
    with Rtnetlink() as ours, IPRoute() as theirs:
        expected = []
        for entry in theirs.get_links():
            values = attributes(entry)
            info = attributes(values["IFLA_LINKINFO"]) if "IFLA_LINKINFO" in values else {}
            name, mac = values["IFLA_IFNAME"], values["IFLA_ADDRESS"]
            kind = info.get("IFLA_INFO_KIND", "")
            lower = values.get("IFLA_LINK", 0)
            expected.append((entry["index"], name, mac, values["IFLA_MTU"], entry["flags"], kind, lower))
        assert [link[:7] for link in ours.list_links()] == sorted(expected)
        found = ours.find_link("one")
        assert found and found == ours.find_link_by_mac(MAC.upper()) and found.kind == "veth"
        assert ours.find_link("none") is None and ours.find_link_by_mac("02:00:00:00:00:99") is None


@in_netns
def test_changing_a_link() -> None:
    with Rtnetlink() as ours, IPRoute() as theirs:
        link = ours.find_link("one")
        assert link
        ours.set_mtu(link.ifindex, 1400)
        ours.set_mac(link.ifindex, "02:00:00:00:00:07")
        ours.set_name(link.ifindex, "fifteen-letters")
        ours.set_up(link.ifindex)
        (entry,) = theirs.get_links(link.ifindex)
        values = attributes(entry)
        assert (values["IFLA_MTU"], values["IFLA_ADDRESS"]) == (1400, "02:00:00:00:00:07")
        assert values["IFLA_IFNAME"] == "fifteen-letters"
        assert entry["flags"] & rtnetlink.IFF_UP
        ours.set_down(link.ifindex)
        assert not theirs.get_links(link.ifindex)[0]["flags"] & rtnetlink.IFF_UP
        for name in ("", "sixteen-letters-", "a/b", "a\0b"):
            with pytest.raises(ValueError, match="no interface name"):
                ours.set_name(link.ifindex, name)


@in_netns
def test_addresses_as_pyroute2_sees_them() -> None:
    with Rtnetlink() as ours, IPRoute() as theirs:
        link = ours.find_link("one")
        assert link
        wanted = [Address(link.ifindex, V4, "10.1.2.3", 24), Address(link.ifindex, V6, "fd00::5", 64)]
        for address in wanted:
            ours.add_address(address)
            ours.add_address(address)  # again is fine
        assert ours.list_addresses(link.ifindex) == wanted
        seen = [(attributes(entry)["IFA_ADDRESS"], entry["prefixlen"]) for entry in theirs.get_addr(index=link.ifindex)]
        assert seen == [("10.1.2.3", 24), ("fd00::5", 64)]
        ip("address add 10.1.2.4/24 dev one")  # a secondary one, which may go with its primary
        ours.flush_addresses(link.ifindex)
        assert ours.list_addresses(link.ifindex) == []
        assert list(theirs.get_addr(index=link.ifindex)) == []


@in_netns
def test_routes_as_pyroute2_sees_them() -> None:
    ip("link set one up")
    with Rtnetlink() as ours, IPRoute() as theirs:
        link = ours.find_link("one")
        assert link
        ours.add_address(Address(link.ifindex, V4, "10.1.2.3", 24))
        ours.add_address(Address(link.ifindex, V6, "fd00::5", 64))
        default = Route(V4, gateway="10.1.2.1", ifindex=link.ifindex)
        ours.replace_route(Route(V4, "10.9.0.0", 16, "10.1.2.9", link.ifindex, "10.1.2.3", mtu=1300, metric=7))
        ours.add_route(default)
        ours.add_route(Route(V6, "fd01::", 48, "fd00::1", link.ifindex))
        ours.add_route(Route(V4, "10.7.7.7", 32, ifindex=link.ifindex, table=1000))
        with pytest.raises(NetlinkError) as caught:
            ours.add_route(default)
        assert caught.value.errno == errno.EEXIST
        for family in (V4, V6):
            seen = set()
            for entry in theirs.get_routes(family=family, table=254):
                values = attributes(entry)
                # pyroute2 repeats IPv6 dumps as flat entries as well
                seen.add(
                    (
                        values.get("RTA_DST", ""),
                        entry["dst_len"],
                        values.get("RTA_GATEWAY", ""),
                        values.get("RTA_PREFSRC", ""),
                    )
                )
            mine = {
                (route.destination, route.prefix, route.gateway, route.source)
                for route in ours.list_routes()
                if route.family == family
            }
            assert mine == seen
        special = next(route for route in ours.list_routes() if route.destination == "10.9.0.0")
        assert (special.mtu, special.metric) == (1300, 7)
        assert [route.destination for route in ours.list_routes(1000)] == ["10.7.7.7"]


@in_netns
def test_neighbours_as_pyroute2_sees_them() -> None:
    ip("link set one up")
    with Rtnetlink() as ours, IPRoute() as theirs:
        link = ours.find_link("one")
        assert link
        wanted = [
            Neighbour(link.ifindex, V4, "10.1.2.9", "02:00:00:00:00:09"),
            Neighbour(link.ifindex, V6, "fd00::9", "02:00:00:00:00:0a"),
        ]
        for neighbour in wanted:
            ours.add_neighbour(neighbour)
            ours.add_neighbour(neighbour)
        assert [entry for entry in ours.list_neighbours(link.ifindex) if entry.state == 0x80] == wanted
        seen = {
            attributes(entry)["NDA_DST"]
            for entry in theirs.get_neighbours(ifindex=link.ifindex)
            if entry["state"] == 0x80
        }
        assert seen == {"10.1.2.9", "fd00::9"}


@in_netns
def test_refusals_are_sentences() -> None:
    with Rtnetlink() as ours:
        with pytest.raises(NetlinkError) as caught:
            ours.set_up(4711)
        assert caught.value.errno == errno.ENODEV
        with pytest.raises(NetlinkError) as caught:
            ours.add_route(Route(V4, "10.9.0.0", 16, "192.0.2.1"))
        assert caught.value.errno == errno.ENETUNREACH
        assert "add route to 10.9.0.0 via 192.0.2.1: Network is unreachable (" in str(caught.value)
        link = ours.find_link("one")
        assert link
        with pytest.raises(NetlinkError):
            ours.set_mtu(link.ifindex, 1)
        with pytest.raises(ValueError, match="no prefix"):
            ours.add_address(Address(link.ifindex, V4, "10.0.0.1", 33))
        assert len(ours.list_links()) == 3  # and the socket is still in step


@in_netns
def test_more_links_than_one_datagram_holds() -> None:
    for number in range(60):
        ip(f"link add a{number} type veth peer name b{number}")
    with Rtnetlink() as ours:
        names = {link.name for link in ours.list_links()}
    assert names == set(os.listdir("/proc/sys/net/ipv4/conf")) - {"all", "default"}


# Section: the agent's calls


def update(**fields: Any) -> types_pb2.Interface:
    addresses = [
        types_pb2.IPAddress(family=types_pb2.IPFamily.v4, address="10.1.2.3", mask="24"),
        types_pb2.IPAddress(family=types_pb2.IPFamily.v6, address="fd00::5", mask="64"),
    ]
    message = types_pb2.Interface(**{"name": "eth0", "hwAddr": MAC, "mtu": 1400, "IPAddresses": addresses, **fields})
    with Uevents() as uevents:
        return interfaces.update_interface(message, Hotplug(uevents, 0.1))


def interface(name: str) -> types_pb2.Interface:
    return next(entry for entry in interfaces.list_interfaces() if entry.name == name)


@in_netns
def test_update_interface() -> None:
    ip("address add 192.0.2.7/24 dev one")
    ip("link set one up")
    answer = update()
    assert answer.name == "eth0"
    made = interface("eth0")
    assert (made.hwAddr, made.mtu, made.type) == (MAC, 1400, "veth")
    globals_ = [entry for entry in made.IPAddresses if not entry.address.startswith("fe80")]
    assert [(entry.address, entry.mask, entry.family) for entry in globals_] == [
        ("10.1.2.3", "24", 0),
        ("fd00::5", "64", 1),
    ]
    update()  # again, from the state that it made
    assert interface("eth0").mtu == 1400


@in_netns
def test_interface_found_by_name_gets_the_address() -> None:
    update(name="two", hwAddr="02:00:00:00:00:55", raw_flags=rtnetlink.IFF_NOARP)
    made = interface("two")
    assert made.hwAddr == "02:00:00:00:00:55" and made.raw_flags & rtnetlink.IFF_NOARP


@in_netns
def test_interfaces_swap_names() -> None:
    other = interface("two").hwAddr
    update(name="two")
    assert (interface("two").hwAddr, interface("one").hwAddr) == (MAC, other)
    with Rtnetlink() as ours:
        link = ours.find_link("one")
        assert link and link.flags & rtnetlink.IFF_UP  # it was up before


@in_netns
def test_interface_refusals() -> None:
    for fields in (
        {"name": "none", "hwAddr": "02:00:00:00:00:99"},
        {"hwAddr": "nonsense"},
        {"name": "a-name-that-is-too-long"},
        {"IPAddresses": [types_pb2.IPAddress(address="10.1.2.3", mask="255.255.255.0")]},
        {"IPAddresses": [types_pb2.IPAddress(address="nonsense", mask="24")]},
    ):
        with pytest.raises(InvalidNetwork):
            update(**fields)
    with pytest.raises(InterfaceError, match="mtu"):
        update(mtu=10**6)


def route(dest: str, gateway: str = "", device: str = "one", family: int = 0, **fields: Any) -> types_pb2.Route:
    return types_pb2.Route(dest=dest, gateway=gateway, device=device, family=family, **fields)  # type: ignore[arg-type]  # 0 or 1


@in_netns
def test_update_routes() -> None:
    update(name="one")
    wanted = [
        route("", "10.1.2.1"),
        route("10.9.0.0/16", "10.8.0.1", mtu=1300),
        route("10.8.0.0/24", scope=253),
        route("::/0", "fd00::1", family=1),
    ]
    for _ in range(2):
        listed = {(entry.dest, entry.gateway, entry.device) for entry in interfaces.update_routes(wanted)}
        assert {
            ("0.0.0.0", "10.1.2.1", "one"),
            ("10.9.0.0/16", "10.8.0.1", "one"),
            ("10.8.0.0/24", "", "one"),
            ("::", "fd00::1", "one"),
        } <= listed
    # what was listed can be sent back: the interface was remade, its routes are gone
    before = interfaces.list_routes()
    update(name="one")
    after = interfaces.update_routes([entry for entry in before if not entry.dest.startswith("fe80")])
    assert {entry.SerializeToString() for entry in before} == {entry.SerializeToString() for entry in after}


@in_netns
def test_route_refusals() -> None:
    for bad in (route("10.0.0.0/x"), route("nonsense"), route("10.0.0.0/8", device="none"), route("10.0.0.0/33")):
        with pytest.raises(InvalidNetwork):
            interfaces.update_routes([bad])
    with pytest.raises(InterfaceError, match="unreachable"):
        interfaces.update_routes([route("10.0.0.0/8", "192.0.2.1")])


@in_netns
def test_add_neighbours() -> None:
    ip("link set one up")
    target = types_pb2.IPAddress(address="10.1.2.9", mask="24")
    interfaces.add_neighbours([types_pb2.ARPNeighbor(toIPAddress=target, device="one", lladdr=MAC)])
    with Rtnetlink() as ours:
        assert [(entry.address, entry.mac, entry.state) for entry in ours.list_neighbours() if entry.mac == MAC] == [
            ("10.1.2.9", MAC, rtnetlink.NUD_PERMANENT)
        ]
    with pytest.raises(InvalidNetwork, match="no interface"):
        interfaces.add_neighbours([types_pb2.ARPNeighbor(toIPAddress=target, device="none", lladdr=MAC)])


# Section: device events from a real kernel


@in_netns
def test_the_kernels_events_and_nobody_elses() -> None:
    with UeventSocket() as heard, socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, NETLINK_KOBJECT_UEVENT) as forger:
        forger.bind((0, 0))
        forged = b"add@/devices/forged\0ACTION=add\0DEVPATH=/devices/forged\0SUBSYSTEM=block\0DEVNAME=vda\0"
        forger.sendto(forged, (0, 1))
        ip("link add three type veth peer name four")
        assert heard.receive() is None  # the forged one
        for _ in range(20):
            event = heard.receive()
            if event and event.subsystem == "net" and event.interface == "three":
                break
        else:
            pytest.fail("the kernel's event did not come")
        assert event.action == "add" and event.devpath == "/devices/virtual/net/three"

"""What a pod's namespace holds, as we read it and as `ip` says; what is copied into the guest."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata.agent import interfaces
from kata.agent.devices.hotplug import Hotplug
from kata.agent.uevents import Uevents
from kata.linux import syscalls
from kata.linux.netns import NetworkNamespace
from kata.linux.rtnetlink import NUD_PERMANENT, NUD_REACHABLE, RTNH_F_ONLINK, Rtnetlink
from kata.linux.rtnetlink.notify import Notifications
from kata.network import to_guest
from kata.network.cleanup import cleanup
from kata.network.endpoint import Endpoint
from kata.network.errors import NamespaceError, UnsupportedInterfaceError
from kata.network.scan import scan
from tests.kernel.namespaces import run_in_namespaces
from tests.kernel.netns import Netns, connect, netns, open_fds, run

pytestmark = pytest.mark.root
V4, V6 = socket.AF_INET, socket.AF_INET6


@pytest.fixture
def pod() -> Iterator[Netns]:
    """A pod with one veth interface, eth0; the other end is outside."""
    before = open_fds()
    with netns("out") as outside, netns("pod") as made:
        connect(outside, made)
        yield made
    assert open_fds() == before


def only(pod: Netns) -> Endpoint:
    (endpoint,) = scan(pod.path)
    return endpoint


def test_an_endpoint_as_ip_sees_it(pod: Netns) -> None:
    pod.ip("link set eth0 mtu 1400 addrgenmode eui64")
    pod.ip("link set eth0 down")
    pod.ip("link set eth0 up")
    pod.ip("addr add 10.77.0.3/32 dev eth0")
    (shown,) = pod.json("address show dev eth0")
    found = only(pod)
    assert (found.name, found.index, found.mac, found.mtu) == ("eth0", shown["ifindex"], shown["address"], 1400)
    assert (found.kind, found.pci_address) == ("veth", "")
    assert {(entry.address, entry.prefix) for entry in found.addresses} == {
        (info["local"], info["prefixlen"]) for info in shown["addr_info"]
    }
    assert any(to_guest.is_link_local(entry) for entry in found.addresses)


def test_routes_of_every_kind(pod: Netns) -> None:
    for command in (
        "route add default via 10.77.0.1",
        "route add 10.8.0.0/16 dev eth0 scope link src 10.77.0.2",
        "route add 10.9.0.0/16 via 192.0.2.1 dev eth0 onlink mtu 1300",
        "route add 10.10.0.0/16 via inet6 fd77::1 dev eth0",
        "route add 10.11.0.0/16 nexthop via 10.77.0.1 dev eth0 weight 1 nexthop via 10.77.0.9 dev eth0 weight 2",
        "-6 route add default via fd77::1",
        "-6 route add fd99::/64 dev eth0 mtu 1290",
        "route add blackhole 10.12.0.0/16",
        "route add 10.13.0.0/16 dev eth0 table 99",
    ):
        pod.ip(command)
    found = only(pod).routes
    seen = {(route.destination, route.prefix, route.gateway) for route in found}
    assert seen == {
        ("", 0, "10.77.0.1"),
        ("10.8.0.0", 16, ""),
        ("10.9.0.0", 16, "192.0.2.1"),
        ("10.10.0.0", 16, "fd77::1"),
        ("10.11.0.0", 16, "10.77.0.1"),
        ("10.11.0.0", 16, "10.77.0.9"),
        ("", 0, "fd77::1"),
        ("fd99::", 64, ""),
    }
    by_destination = {route.destination: route for route in found if route.family == V4}
    assert by_destination["10.9.0.0"].flags & RTNH_F_ONLINK and by_destination["10.9.0.0"].mtu == 1300
    assert (by_destination["10.8.0.0"].scope, by_destination["10.8.0.0"].source) == (253, "10.77.0.2")


def test_neighbours_that_are_wanted(pod: Netns) -> None:
    pod.ip("route add default via 10.77.0.1")
    pod.ip("neigh add 10.77.0.9 lladdr 02:00:00:00:00:09 dev eth0 nud permanent")
    pod.ip("neigh add fd77::9 lladdr 02:00:00:00:00:0a dev eth0 nud permanent")
    pod.ip("neigh add 10.77.0.1 lladdr 02:00:00:00:00:01 dev eth0 nud reachable")
    pod.ip("neigh add 10.77.0.8 lladdr 02:00:00:00:00:08 dev eth0 nud reachable")
    assert {(entry.address, entry.mac, entry.state) for entry in only(pod).neighbours} == {
        ("10.77.0.9", "02:00:00:00:00:09", NUD_PERMANENT),
        ("fd77::9", "02:00:00:00:00:0a", NUD_PERMANENT),
        ("10.77.0.1", "02:00:00:00:00:01", NUD_REACHABLE),
    }


def test_links_without_an_address_are_no_endpoints(pod: Netns) -> None:
    pod.ip("link add b0 type bridge")
    pod.ip("link add v1 type veth peer name v2")
    assert only(pod).name == "eth0"


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        ("link add b0 type bridge", "bridge"),
        ("link add b0 type vxlan id 7 dstport 4789", "vxlan"),
        ("tuntap add dev b0 mode tun", "tun"),
    ],
)
def test_interfaces_that_no_guest_can_have_are_named(pod: Netns, make: str, kind: str) -> None:
    pod.command("ip", *make.split())
    pod.ip("addr add 10.99.0.1/24 dev b0")
    with pytest.raises(UnsupportedInterfaceError, match=f"'b0' is of the kind {kind}"):
        scan(pod.path)


def test_kinds(pod: Netns) -> None:
    pod.command(*["ip", "tuntap", "add", "dev", "t0", "mode", "tap"])
    pod.ip("link add m0 link eth0 type macvlan mode bridge")
    pod.ip("link add m1 link eth0 type macvtap mode bridge")
    for number, name in enumerate(("t0", "m0", "m1")):
        pod.ip(f"addr add 10.9{number}.0.1/24 dev {name}")
    assert {endpoint.name: endpoint.kind for endpoint in scan(pod.path)} == {
        "eth0": "veth",
        "t0": "tap",
        "m0": "macvlan",
        "m1": "macvtap",
    }


def test_an_empty_namespace() -> None:
    with netns() as empty:
        assert scan(empty.path) == ()
        cleanup(empty.path)


def test_paths_that_are_no_namespace(tmp_path: Path) -> None:
    fifo, plain = tmp_path / "fifo", tmp_path / "plain"
    os.mkfifo(fifo)
    plain.touch()
    paths = ["/nonexistent", str(fifo), str(plain), "/proc/self/ns/mnt", "/", "", "a\0b"]
    for path in paths:
        with pytest.raises(NamespaceError, match="cannot be entered"):
            scan(path)
    for path in [*paths[:3], *paths[4:]]:
        cleanup(path)


def test_calls_in_a_namespace_stay_there(pod: Netns) -> None:
    mine = os.stat("/proc/thread-self/ns/net").st_ino
    with NetworkNamespace(pod.path) as namespace:
        theirs = namespace.call(lambda: os.stat("/proc/thread-self/ns/net").st_ino)
        assert theirs == os.stat(pod.path).st_ino != mine
        assert os.stat("/proc/thread-self/ns/net").st_ino == mine
        with pytest.raises(ZeroDivisionError):
            namespace.call(lambda: 1 // 0)
    with pytest.raises(OSError, match="closed"):
        namespace.call(bool)


# Section: what the guest is told, and what the agent makes of it


def test_the_agent_makes_the_same_network(pod: Netns) -> None:
    """A second namespace with a link of the same MAC address stands for the guest."""
    for command in (
        "link set eth0 mtu 1400",
        "addr add 10.77.0.3/32 dev eth0",
        "route add 10.8.0.1/32 dev eth0 scope link",
        "route add 10.9.0.0/16 via 192.0.2.1 dev eth0 onlink mtu 1300",
        "route add 10.10.0.0/16 via inet6 fd77::1 dev eth0",
        "route add default via 10.8.0.1 dev eth0",
        "-6 route add default via fd77::1",
        "neigh add 10.77.0.9 lladdr 02:00:00:00:00:09 dev eth0 nud permanent",
    ):
        pod.ip(command)
    endpoint = only(pod)

    def guest() -> None:
        run("ip", *f"link add nic address {endpoint.mac} type veth peer name far".split())
        run("ip", "link", "set", "far", "up")
        with Uevents() as uevents:
            interfaces.update_interface(to_guest.interface(endpoint), Hotplug(uevents, 0.1))
        interfaces.update_routes(to_guest.routes([endpoint]))
        interfaces.add_neighbours(to_guest.neighbours([endpoint]))
        with Rtnetlink() as netlink:
            link = netlink.find_link("eth0")
            assert link and (link.mac, link.mtu) == (endpoint.mac, 1400)
            made = {(entry.address, entry.prefix) for entry in netlink.list_addresses(link.ifindex)}
            assert made >= {(entry.address, entry.prefix) for entry in endpoint.addresses}
            routes = {route._replace(ifindex=0, metric=0) for route in netlink.list_routes()}
            wanted = {route._replace(ifindex=0, metric=0) for route in endpoint.routes}
            assert routes >= wanted
            assert [entry.mac for entry in netlink.list_neighbours() if entry.address == "10.77.0.9"] == [
                "02:00:00:00:00:09"
            ]

    run_in_namespaces(guest, syscalls.CLONE_NEWNET)


def test_more_notifications_than_are_kept(pod: Netns) -> None:
    """What was lost is a change like any other, and one wait takes all of it."""
    lines = [f"addr add 10.{first}.{last}.1/32 dev eth0" for first in range(100, 116) for last in range(250)]
    with NetworkNamespace(pod.path) as namespace, namespace.call(Notifications) as notifications:
        assert not notifications.wait(time.monotonic())
        run("ip", "-n", pod.name, "-batch", "-", input="\n".join(lines))
        assert notifications.wait(time.monotonic() + 10)
        assert not notifications.wait(time.monotonic() + 0.05)
    assert len(only(pod).addresses) == 2 + len(lines)

"""Pods whose network Debian's CNI plugins made, in namespaces of our own; a Python peer on the tap is the guest."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata.linux.netns import NetworkNamespace
from kata.network import to_guest
from kata.network.attachment import Settings, attach
from kata.network.scan import scan
from tests.helpers.cni import Cni, addresses
from tests.kernel.guest_nic import GuestNic
from tests.kernel.netns import netns, open_fds

pytestmark = pytest.mark.root
MODELS = ("tcfilter", "macvtap")


@pytest.fixture
def cni(tmp_path: Path) -> Iterator[Cni]:
    before = open_fds()
    with netns("host") as host:
        yield Cni(host, tmp_path)
    assert open_fds() == before


@pytest.mark.parametrize("model", MODELS)
def test_two_pods_on_a_bridge(cni: Cni, model: str) -> None:
    settings = Settings(model=model)
    with netns("one") as one, netns("two") as two:
        results = [addresses(cni.add(pod, cni.bridge())) for pod in (one, two)]
        states = [pod.state() for pod in (one, two)]
        endpoints = [scan(pod.path)[0] for pod in (one, two)]
        with (
            attach(one.path, endpoints[0], settings) as first,
            attach(two.path, endpoints[1], settings) as second,
            GuestNic(first.fds, first.endpoint.mac, *results[0]) as guest,
            GuestNic(second.fds, second.endpoint.mac, *results[1]) as other,
        ):
            assert guest.ping(results[1][0]) and other.ping(results[0][0])
            assert guest.ping("10.66.0.1") and other.ping("10.66.0.1")
            for four, six in results:
                assert cni.host.ping(four) and cni.host.ping(six)
        assert [pod.state() for pod in (one, two)] == states
        for pod in (one, two):
            cni.remove(pod, cni.bridge())
            assert [link["ifname"] for link in pod.json("link")] == ["lo"]
        assert [link["ifname"] for link in cni.host.json("link")] == ["lo", "cni0"]


def test_what_a_bridge_tells_the_guest(cni: Cni) -> None:
    with netns("one") as pod:
        result = cni.add(pod, cni.bridge(mtu=1400))
        (endpoint,) = scan(pod.path)
        message = to_guest.interface(endpoint)
        assert (message.name, message.mtu, message.type, message.raw_flags) == ("eth0", 1400, "veth", 0)
        assert [f"{entry.address}/{entry.mask}" for entry in message.IPAddresses] == [
            entry["address"] for entry in result["ips"]
        ]
        routes = [(route.dest, route.gateway, route.device) for route in to_guest.routes([endpoint])]
        assert routes == [("", "10.66.0.1", "eth0"), ("", "fd66::1", "eth0")]


@pytest.mark.parametrize("model", MODELS)
def test_ptp(cni: Cni, model: str) -> None:
    """Its gateway is reached by a route of its own, which has to come before those that use it."""
    plugin = {"type": "ptp", "ipam": cni.ipam}
    with netns("one") as pod:
        own = addresses(cni.add(pod, plugin))
        (endpoint,) = scan(pod.path)
        routes = [(route.dest, route.gateway) for route in to_guest.routes([endpoint]) if not route.family]
        assert routes == [("10.66.0.1/32", ""), ("10.66.0.0/24", "10.66.0.1"), ("", "10.66.0.1")]
        with (
            attach(pod.path, endpoint, Settings(model=model)) as joined,
            GuestNic(joined.fds, joined.endpoint.mac, *own) as guest,
        ):
            assert guest.ping("10.66.0.1")
            assert cni.host.ping(own[0]) and cni.host.ping(own[1])
        cni.remove(pod, plugin)
        assert [link["ifname"] for link in pod.json("link")] == ["lo"]


@pytest.mark.parametrize("model", MODELS)
def test_tuning_changes_what_is_copied(cni: Cni, model: str) -> None:
    chain = (cni.bridge(), {"type": "tuning", "mac": "02:00:00:00:66:66", "mtu": 1380, "promisc": True})
    with netns("one") as pod:
        own = addresses(cni.add(pod, *chain))
        (endpoint,) = scan(pod.path)
        assert (endpoint.mac, endpoint.mtu) == ("02:00:00:00:66:66", 1380)
        with (
            attach(pod.path, endpoint, Settings(model=model)) as joined,
            GuestNic(joined.fds, joined.endpoint.mac, *own),
        ):
            assert cni.host.ping(own[0], size=1352)


@pytest.mark.parametrize("model", MODELS)
def test_bandwidth_limits_the_other_end(cni: Cni, model: str) -> None:
    """It works on the host's end of the pair, where our own limits never are: both can be there."""
    limits = {"ingressRate": 10**9, "ingressBurst": 10**7, "egressRate": 10**9, "egressBurst": 10**7}
    chain = (cni.bridge(), {"type": "bandwidth", **limits})
    with netns("one") as pod:
        own = addresses(cni.add(pod, *chain))
        settings = Settings(model=model, rx_rate=10**8, tx_rate=10**8)
        with (
            attach(pod.path, scan(pod.path)[0], settings) as joined,
            GuestNic(joined.fds, joined.endpoint.mac, *own) as guest,
        ):
            assert guest.ping("10.66.0.1") and cni.host.ping(own[0])
            assert "tbf" in cni.host.command("tc", "qdisc", "show")
        cni.remove(pod, *chain)
        assert [link["ifname"] for link in cni.host.json("link")] == ["lo", "cni0"]


@pytest.mark.parametrize("model", MODELS)
def test_a_published_port_leads_to_the_guest(cni: Cni, model: str) -> None:
    """A client beyond the host sends UDP to a port of the host; portmap leads it to port 7 of the guest."""
    chain = (cni.bridge(), {"type": "portmap", "capabilities": {"portMappings": True}})
    ports = [{"hostPort": 8007, "containerPort": 7, "protocol": "udp"}]
    with netns("one") as pod, netns("far") as far:
        cni.host.ip(f"link add uplink type veth peer name eth0 netns {far.name}")
        for end, name, last in ((cni.host, "uplink", 1), (far, "eth0", 2)):
            end.ip(f"addr add 192.0.2.{last}/24 dev {name}")
            end.ip(f"link set {name} up")
        own = addresses(cni.add(pod, *chain, portMappings=ports))
        with NetworkNamespace(far.path) as namespace:
            client = namespace.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        with (
            client,
            attach(pod.path, scan(pod.path)[0], Settings(model=model)) as joined,
            GuestNic(joined.fds, joined.endpoint.mac, *own),
        ):
            client.settimeout(10)
            client.connect(("192.0.2.1", 8007))
            for _ in range(20):
                data = os.urandom(1000)
                client.send(data)
                assert client.recv(2000) == data
        cni.remove(pod, *chain, portMappings=ports)

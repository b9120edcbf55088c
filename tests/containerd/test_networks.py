"""Containers on networks that Debian's CNI plugins made: with their host, with each other, and by name.

Two virtual machines for the whole module, on bridges of different MTUs, with a router between them: the host's
namespace. What the tests call the host is a namespace of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.helpers.boxes import PATIENT, Box, check_echo
from tests.helpers.cni import Cni, addresses
from tests.helpers.containerd import Containerd
from tests.helpers.traffic import name_server
from tests.kernel.netns import Netns, netns

pytestmark = [pytest.mark.containerd, pytest.mark.root]


class Networks:
    """Two boxes, `one` with an MTU of 9000 and `two` with 1400, and the host."""

    def __init__(self, host: Netns, one: Box, two: Box) -> None:
        self.host, self.one, self.two = host, one, two


def resolv_conf(folder: Path, *servers: str) -> tuple[str, ...]:
    path = folder / "resolv.conf"
    path.write_text("".join(f"nameserver {server}\n" for server in servers) + "search tests.local\n")
    return ("--mount", f"type=bind,src={path},dst=/etc/resolv.conf,options=rbind:ro")


@pytest.fixture(scope="module")
def networks(daemon: Containerd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Networks]:
    folder = tmp_path_factory.mktemp("networks")
    (config := folder / "configuration.toml").write_text(PATIENT)
    with ExitStack() as stack:
        host = stack.enter_context(netns("host"))
        boxes = []
        for number, mtu in ((66, 9000), (67, 1400)):
            (folder / str(number)).mkdir()
            cni = Cni(host, folder / str(number), number)
            pod = stack.enter_context(netns("pod"))
            plugin = cni.bridge(bridge=f"cni{number}", mtu=mtu)
            box = Box(daemon, f"box{number}", pod, addresses(cni.add(pod, plugin)))
            stack.callback(cni.remove, pod, plugin)
            stack.callback(daemon.remove, box.name)
            box.start("--runtime-config-path", str(config), *resolv_conf(folder, "10.66.0.1"))
            boxes.append(box)
        host.command("sh", "-c", "echo 1 | tee /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding")
        yield Networks(host, *boxes)


def test_pings_of_full_size(networks: Networks) -> None:
    for box, mtu in ((networks.one, 9000), (networks.two, 1400)):
        number = box.four.split(".")[1]
        for own, gateway, header in ((box.four, f"10.{number}.0.1", 28), (box.six, f"fd{number}::1", 48)):
            assert networks.host.ping(own, size=mtu - header, wait=30)
            assert " 0% packet loss" in box.shell(f"ping -c 2 -W 30 -s {mtu - header} {gateway}")
        assert f"mtu {mtu} " in box.shell("ip link show eth0")


def test_guest_to_guest(networks: Networks) -> None:
    """Ping, and TCP there and back, through a router between a large MTU and a small one."""
    one, two = networks.one, networks.two
    assert " 0% packet loss" in two.shell(f"ping -c 2 -W 30 {one.four} && ping -c 2 -W 30 {one.six}")
    for address in (two.four, two.six):
        assert " 0% packet loss" in one.shell(f"ping -c 2 -W 30 {address}")
        script = "head -c 1048576 /dev/urandom > /tmp/sent && sha256sum < /tmp/sent"
        sums = one.shell(f"{script} && nc {address} 5000 < /tmp/sent | sha256sum").splitlines()
        assert sums[0] == sums[1]


@pytest.mark.parametrize("family", ["four", "six"])
def test_tcp_between_host_and_guest(networks: Networks, family: str) -> None:
    for box in (networks.one, networks.two):
        check_echo(networks.host, getattr(box, family), 64)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_gigabyte(networks: Networks) -> None:
    """22 MiB/s each way under emulation, with both at once: 47 s."""
    check_echo(networks.host, networks.one.four, 1024)


def test_names(networks: Networks) -> None:
    known = {"server.tests.local": "10.66.0.77", "far.example": "192.0.2.9"}
    with name_server(networks.host, "10.66.0.1", known) as asked:
        for box in (networks.one, networks.two):
            assert "10.66.0.77" in box.shell("nslookup server.tests.local && ! nslookup nowhere.example")
            assert "PING far.example (192.0.2.9)" in box.shell("ping -c 1 -W 1 far.example || true")
            assert "PING server (10.66.0.77)" in box.shell("ping -c 1 -W 1 server || true")  # by the search domain
    assert {"server.tests.local", "far.example", "nowhere.example"} <= set(asked)

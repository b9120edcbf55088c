"""Joining a pod's interface to a VM: frames really pass, and nothing stays. A Python peer on the tap is the guest."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from kata.linux.netlink import NetlinkError, NetlinkSocket
from kata.linux.netns import NetworkNamespace
from kata.linux.rtnetlink.host import HostNetlink
from kata.network.attachment import Attachment, Settings, attach
from kata.network.cleanup import cleanup
from kata.network.endpoint import Endpoint
from kata.network.errors import AttachError, NamespaceError
from kata.network.scan import scan
from tests.kernel.guest_nic import ARP, GuestNic
from tests.kernel.netns import Netns, connect, netns, open_fds, run

pytestmark = pytest.mark.root
MODELS = ("tcfilter", "macvtap")
GUEST, OUTSIDE = "10.77.0.2", "10.77.0.1"
SO_RCVBUFFORCE = 33  # asm-generic/socket.h
GUEST6 = "fd77::2"


class World:
    """A pod and what is outside of it, joined by a veth pair."""

    def __init__(self, outside: Netns, pod: Netns) -> None:
        self.outside, self.pod = outside, pod

    def endpoint(self, name: str = "eth0") -> Endpoint:
        return next(endpoint for endpoint in scan(self.pod.path) if endpoint.name == name)

    def attach(self, model: str = "tcfilter", **settings: int) -> Attachment:
        return attach(self.pod.path, self.endpoint(), Settings(model=model, **settings))


@pytest.fixture
def world() -> Iterator[World]:
    before = open_fds()
    with netns("out") as outside, netns("pod") as pod:
        connect(outside, pod)
        yield World(outside, pod)
    assert open_fds() == before
    assert [thread.name for thread in threading.enumerate() if thread.name == "netns"] == []


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("queues", [1, 3])
def test_frames_pass_both_ways_and_nothing_stays(world: World, model: str, queues: int) -> None:
    before, mac = world.pod.state(), world.endpoint().mac
    with world.attach(model, queues=queues) as joined:
        assert len(joined.fds) == queues
        assert joined.endpoint.mac == mac
        with GuestNic(joined.fds, joined.endpoint.mac, GUEST, GUEST6) as guest:
            assert world.outside.ping(GUEST)
            assert world.outside.ping(GUEST6)
            assert world.outside.ping(GUEST, size=1472)  # with headers the MTU, 1500
            assert world.outside.ping(GUEST, size=8000, wait=1) is False  # the peer joins no fragments
            assert guest.ping(OUTSIDE)
            assert guest.ping(OUTSIDE, size=1472)
    assert world.pod.state() == before
    assert world.outside.ping(GUEST)  # the pod's own stack answers again


@pytest.mark.parametrize("model", MODELS)
def test_only_the_guest_answers_for_its_address(world: World, model: str) -> None:
    with world.attach(model):
        assert not world.outside.ping(GUEST, wait=1)
        assert not world.outside.ping(GUEST6, wait=1)
        neighbours = world.outside.json("neigh")
        assert [entry for entry in neighbours if "lladdr" in entry and entry["dst"] in (GUEST, GUEST6)] == []


@pytest.mark.parametrize("model", MODELS)
def test_udp_arrives_whole(world: World, model: str) -> None:
    with world.attach(model) as joined, GuestNic(joined.fds, joined.endpoint.mac, GUEST):
        with NetworkNamespace(world.outside.path) as outside:
            client = outside.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        with client:
            client.settimeout(10)
            client.connect((GUEST, 7))
            for _ in range(200):
                data = os.urandom(1400)
                client.send(data)
                assert client.recv(2000) == data


@pytest.mark.parametrize("model", MODELS)
def test_the_tap_has_the_mtu(model: str) -> None:
    with netns("out") as outside, netns("pod") as pod:
        connect(outside, pod, mtu=9000)
        world = World(outside, pod)
        with world.attach(model) as joined:
            assert joined.endpoint.mtu == 9000
            tap = next(link for link in pod.json("link") if link["ifname"].endswith("_kata"))
            assert tap["mtu"] == 9000 and "UP" in tap["flags"]
            assert pod.json(f"address show dev {tap['ifname']}")[0]["addr_info"] == []
            with GuestNic(joined.fds, joined.endpoint.mac, GUEST) as guest:
                assert outside.ping(GUEST, size=8972)
                assert guest.ping(OUTSIDE, size=8972)


def test_what_tc_says_of_the_filters(world: World) -> None:
    index = world.endpoint().index
    with world.attach():
        filters = world.pod.command("tc", "filter", "show", "dev", "eth0", "ingress")
        assert f"mirred (Egress Redirect to device tap{index}_kata) stolen" in filters
        assert "cookie 6b617461" in filters and "terminal" in filters
        back = world.pod.command("tc", "filter", "show", "dev", f"tap{index}_kata", "ingress")
        assert "mirred (Egress Redirect to device eth0) stolen" in back


def test_the_model_none_touches_nothing(world: World) -> None:
    before = world.pod.state()
    with world.attach("none") as joined:
        assert joined.fds == ()
        assert world.pod.state() == before


def test_filters_of_others_stay(world: World) -> None:
    pod = world.pod
    pod.command("tc", "qdisc", "add", "dev", "eth0", "clsact")
    pod.command(*"tc filter add dev eth0 ingress prio 7 u32 match ip dst 192.0.2.1 flowid 1:1".split())  # noqa: SIM905
    before = pod.state()
    with world.attach() as joined, GuestNic(joined.fds, joined.endpoint.mac, GUEST):
        assert world.outside.ping(GUEST)
    assert pod.state() == before
    assert _die_while_attached(world, Settings()) == signal.SIGKILL
    cleanup(pod.path)
    assert pod.state() == before


@pytest.mark.parametrize("model", MODELS)
def test_what_a_killed_runtime_leaves(world: World, model: str) -> None:
    before = world.pod.state()
    settings = Settings(model=model, queues=2, rx_rate=10**9, tx_rate=10**9)
    for _ in range(2):
        assert _die_while_attached(world, settings) == signal.SIGKILL
        assert world.pod.state() != before
        cleanup(world.pod.path)
        assert world.pod.state() == before
        cleanup(world.pod.path)
    with attach(world.pod.path, world.endpoint(), settings) as joined, GuestNic(joined.fds, joined.endpoint.mac, GUEST):
        assert world.outside.ping(GUEST)
    assert world.pod.state() == before


def test_the_next_sandbox_works_without_a_clean_up(world: World) -> None:
    before = world.pod.state()
    assert _die_while_attached(world, Settings()) == signal.SIGKILL
    with world.attach() as joined, GuestNic(joined.fds, joined.endpoint.mac, GUEST):
        assert world.outside.ping(GUEST)
    assert world.pod.state() == before


def _die_while_attached(world: World, settings: Settings) -> int:
    """The signal that ended a process which had attached."""
    endpoint = world.endpoint()
    pid = os.fork()
    if pid == 0:
        try:
            attach(world.pod.path, endpoint, settings)
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(99)
    _, status = os.waitpid(pid, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else -1


@pytest.mark.parametrize("model", MODELS)
def test_undone_when_the_namespace_was_removed(world: World, model: str) -> None:
    joined = world.attach(model, rx_rate=10**9, tx_rate=10**9)
    run("ip", "netns", "del", world.pod.name)
    joined.close()
    joined.close()
    cleanup(world.pod.path)
    deadline = time.monotonic() + 20  # the kernel takes namespaces down in the background
    while any(link["ifname"] == "out0" for link in world.outside.json("link")):
        assert time.monotonic() < deadline, "something still holds the namespace"
        time.sleep(0.05)


@pytest.mark.parametrize("model", MODELS)
def test_undone_when_the_interface_was_removed(world: World, model: str) -> None:
    with world.attach(model, rx_rate=10**9, tx_rate=10**9):
        world.outside.ip("link del out0")
    assert [link["ifname"] for link in world.pod.json("link")] == ["lo"]


def test_an_interface_that_is_gone(world: World) -> None:
    endpoint = world.endpoint()
    world.outside.ip("link del out0")
    for model in MODELS:
        with pytest.raises(AttachError, match="'eth0' cannot be joined to the VM: "):
            attach(world.pod.path, endpoint, Settings(model=model))
    assert [link["ifname"] for link in world.pod.json("link")] == ["lo"]


@pytest.mark.parametrize("model", MODELS)
def test_a_second_sandbox_is_refused_and_harms_nothing(world: World, model: str) -> None:
    endpoint = world.endpoint()
    with world.attach(model) as joined:
        during = world.pod.state()
        with pytest.raises(AttachError) as caught:
            attach(world.pod.path, endpoint, Settings(model=model))
        assert "another sandbox" in caught.value.hint
        assert world.pod.state() == during
        with GuestNic(joined.fds, joined.endpoint.mac, GUEST):
            assert world.outside.ping(GUEST)


@pytest.mark.parametrize("model", MODELS)
def test_a_failure_at_any_step_leaves_nothing(world: World, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel refuses the first request, then the second, and so on until there are no more."""
    before, descriptors = world.pod.state(), open_fds()
    real = NetlinkSocket.request
    left = [0]

    def request(self: NetlinkSocket, *arguments: Any, **named: Any) -> Any:
        left[0] -= 1
        if left[0] == -1:
            raise NetlinkError(errno.ENOMEM, "refused by the test")
        return real(self, *arguments, **named)

    monkeypatch.setattr(NetlinkSocket, "request", request)
    for number in range(100):
        left[0] = number
        try:
            attachment = world.attach(model, queues=2, rx_rate=10**9, tx_rate=10**9)
        except AttachError as error:
            assert "refused by the test" in error.what
            assert world.pod.state() == before
            assert open_fds() == descriptors
            continue
        left[0] = -1
        attachment.close()
        break
    assert number >= 9 and world.pod.state() == before


def test_the_tap_lives_with_the_vmms_copies(world: World) -> None:
    with world.attach() as joined:
        copy = os.dup(joined.fds[0])
        joined.hand_over()
        assert joined.fds == ()
        with GuestNic((copy,), joined.endpoint.mac, GUEST):
            os.close(copy)
            assert world.outside.ping(GUEST)
        assert [link["ifname"] for link in world.pod.json("link")] == ["lo", "eth0"]


def test_ten_at_once() -> None:
    """Ten interfaces of two pods, by ten threads, several times."""
    with netns("out") as outside, netns("pod") as one, netns("pod") as two:
        for number in range(10):
            connect(outside, (one, two)[number % 2], number)
        pods = [(pod, endpoint) for pod in (one, two) for endpoint in scan(pod.path)]
        before = [one.state(), two.state()]
        failures: list[BaseException] = []

        def work(pod: Netns, endpoint: Endpoint, model: str) -> None:
            try:
                for _ in range(5):
                    with attach(pod.path, endpoint, Settings(model=model, rx_rate=10**8, tx_rate=10**8)) as joined:
                        number = endpoint.name[3:]
                        with GuestNic(joined.fds, endpoint.mac, f"10.77.{number}.2") as guest:
                            assert guest.ping(f"10.77.{number}.1", timeout=30)
            except BaseException as error:  # noqa: BLE001 - told by the main thread
                failures.append(error)

        threads = [
            threading.Thread(target=work, args=(pod, endpoint, MODELS[number % 2]))
            for number, (pod, endpoint) in enumerate(pods)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert [one.state(), two.state()] == before


@pytest.mark.parametrize("name", ["a;reboot", "-h", "$(id)", "日本", "a'b\"", "--help", "x" * 15])
def test_hostile_names(name: str) -> None:
    with netns("out") as outside, netns("pod") as pod:
        connect(outside, pod)
        pod.ip("link set eth0 down")
        with NetworkNamespace(pod.path) as namespace, namespace.call(HostNetlink) as netlink:
            link = netlink.find_link("eth0")
            assert link
            netlink.set_name(link.ifindex, name)
            netlink.set_up(link.ifindex)
            for bad in ("e%d", "", "a/b", "x" * 16, "a\0"):
                with pytest.raises(ValueError, match="no interface name"):
                    netlink.set_name(link.ifindex, bad)
        world = World(outside, pod)
        for model in MODELS:
            with (
                attach(pod.path, world.endpoint(name), Settings(model=model)) as joined,
                GuestNic(joined.fds, joined.endpoint.mac, GUEST),
            ):
                assert outside.ping(GUEST)


# Section: rate limits. What tc is told is compared; that it has an effect, in bytes and never by a clock.


@pytest.mark.parametrize(("model", "where"), [("tcfilter", ("tap", "eth")), ("macvtap", ("ifb", "tap"))])
def test_limits_are_where_tc_shows_them(world: World, model: str, where: tuple[str, str]) -> None:
    before = world.pod.state()
    index = world.endpoint().index
    names = {"tap": f"tap{index}_kata", "ifb": f"ifb{index}_kata", "eth": "eth0"}
    with world.attach(model, rx_rate=80_000_000, tx_rate=40_000_000_000) as joined:
        for name, rate in zip(where, ("80Mbit", "40Gbit"), strict=True):
            shown = world.pod.command("tc", "qdisc", "show", "dev", names[name])
            assert "qdisc tbf 6b61: root refcnt" in shown and f" rate {rate} " in shown, shown
        with GuestNic(joined.fds, joined.endpoint.mac, GUEST) as guest:
            assert world.outside.ping(GUEST) and guest.ping(OUTSIDE)
    assert world.pod.state() == before


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("direction", ["rx", "tx"])
def test_a_limit_drops_what_is_too_much(world: World, model: str, direction: str) -> None:
    """A burst of 4 MB against 8 kbit/s: the bucket (128 KiB) and its queue (as much again) pass, no more."""
    with world.attach(model, **{f"{direction}_rate": 8000}) as joined:
        with NetworkNamespace(world.outside.path) as outside:
            sink = outside.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        with sink, GuestNic(joined.fds, joined.endpoint.mac, GUEST) as guest:
            assert world.outside.ping(GUEST)
            if direction == "rx":
                for _ in range(3000):
                    with contextlib.suppress(BlockingIOError):  # all that the socket may have on its way waits
                        sink.sendto(bytes(1400), socket.MSG_DONTWAIT, (GUEST, 9))
                arrived = guest.await_bytes(20_000)
            else:
                sink.bind((OUTSIDE, 9))
                sink.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)
                sink.settimeout(0.5)
                guest.flood(OUTSIDE, 9, 3000, 1400)
                arrived = 0
                try:
                    while True:
                        arrived += len(sink.recv(2000))
                except TimeoutError:
                    pass
            assert 20_000 < arrived < 1_000_000


# Section: interfaces that are taps already


def test_a_tap_that_is_there(world: World) -> None:
    pod = world.pod
    for name, words in (("tapa", ""), ("tapb", "multi_queue")):
        pod.command(*f"ip tuntap add dev {name} mode tap vnet_hdr {words}".split())
        pod.ip(f"addr add 10.78.0.1/24 dev {name}")
        pod.ip(f"link set {name} up")
        before = pod.state()
        endpoint = world.endpoint(name)
        assert endpoint.kind == "tap"
        settings = Settings(queues=2, rx_rate=10**9, tx_rate=10**9)
        with attach(pod.path, endpoint, settings) as joined:
            assert len(joined.fds) == (2 if words else 1)
            assert joined.endpoint.mac != endpoint.mac
            with GuestNic(joined.fds, joined.endpoint.mac, "10.78.0.2") as guest:
                assert guest.ping("10.78.0.1")
                assert pod.ping("10.78.0.2")
        assert [link[0] for link in pod.state()["links"]] == [link[0] for link in before["links"]]
        assert pod.state()["qdiscs"] == before["qdiscs"]
        pod.ip(f"link del {name}")


def test_a_macvtap_that_is_there(world: World) -> None:
    world.pod.ip("link add m0 link eth0 type macvtap mode bridge")
    world.pod.ip("addr add 10.77.0.9/24 dev m0")
    world.pod.ip("link set m0 up")
    before = world.pod.state()
    endpoint = world.endpoint("m0")
    assert endpoint.kind == "macvtap"
    with (
        attach(world.pod.path, endpoint, Settings(tx_rate=10**9)) as joined,
        GuestNic(joined.fds, endpoint.mac, "10.77.0.9", "fd77::9") as guest,
    ):
        assert guest.ping(OUTSIDE)
        assert world.outside.ping("10.77.0.9")
        assert world.outside.ping("fd77::9")
    assert world.pod.state() == before
    with pytest.raises(AttachError, match="cannot be limited"):
        attach(world.pod.path, endpoint, Settings(rx_rate=10**9))


@pytest.mark.parametrize("model", MODELS)
def test_a_macvlan_in_either_model(world: World, model: str) -> None:
    world.pod.ip("link add v0 link eth0 type macvlan mode bridge")
    world.pod.ip("addr flush dev eth0")
    world.pod.ip("addr add 10.77.0.2/24 dev v0")
    world.pod.ip("link set v0 up")
    before = world.pod.state()
    assert [endpoint.kind for endpoint in scan(world.pod.path)] == ["macvlan"]
    with (
        attach(world.pod.path, world.endpoint("v0"), Settings(model=model)) as joined,
        GuestNic(joined.fds, joined.endpoint.mac, GUEST) as guest,
    ):
        assert guest.ping(OUTSIDE) and world.outside.ping(GUEST)
    assert world.pod.state() == before


# Section: what must never be touched


def test_the_hosts_own_network_is_refused() -> None:
    for call in (scan, cleanup):
        with pytest.raises(NamespaceError, match="host's own network"):
            call("/proc/self/ns/net")


def test_arp_is_what_reaches_the_guest_first(world: World) -> None:
    with world.attach() as joined, GuestNic(joined.fds, joined.endpoint.mac, GUEST) as guest:
        world.outside.ping(GUEST)
        assert guest.saw(ARP)

"""Networks that are set up late: real namespaces and taps, a machine and an agent that write down what they hear."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from msgspec.structs import replace

from kata.hypervisor.errors import NoPlaceError
from kata.hypervisor.machine import HostDevice, Machine, MachineSpec, TapNic
from kata.log import Logger
from kata.network import direct, vfio
from kata.network.scan import scan
from kata.network.watch import Watch
from kata.sandbox.agent_client import AgentClient
from kata.sandbox.config import PodNetworkConfig
from kata.sandbox.errors import ConfigError, ContainerError
from kata.sandbox.podnetwork import PodNetwork, noted_devices
from tests.helpers.sysfs import ADDRESS, Sysfs
from tests.kernel.netns import Netns, connect, netns, open_fds

pytestmark = pytest.mark.root
PATIENCE = 30.0


class Peer:
    """Both the machine and the agent: `said` is what they were told, in order. `refuse` names what fails."""

    def __init__(self) -> None:
        self.spec = MachineSpec(sandbox_id="a", directory="/d", kernel="/k", initrd=None, image=None)
        self.said: list[tuple[str, Any]] = []
        self.refuse: set[str] = set()
        self.held: list[int] = []
        self.hold = threading.Event()
        self.hold.set()

    def __getattr__(self, name: str) -> Callable[[Any], str]:
        def call(argument: Any) -> str:
            self.said.append((name, argument))
            assert self.hold.wait(PATIENCE)
            if name in self.refuse:
                raise {"add_nic": NoPlaceError, "remove_nic": NoPlaceError}.get(name, ContainerError)(f"no {name}")
            if isinstance(argument, TapNic):
                self.held += map(os.dup, argument.fds)
            return "1d.0/00"

        return call

    def heard(self, method: str) -> list[Any]:
        return [argument for name, argument in self.said if name == method]

    def close(self) -> None:
        while self.held:
            os.close(self.held.pop())


class Guest:
    """A pod's network with a guest in it, from its boot on."""

    def __init__(self, network: PodNetwork, peer: Peer, nics: tuple[TapNic, ...], log: list[dict[str, object]]) -> None:
        self.network, self.peer, self.nics, self.log = network, peer, nics, log

    def errors(self) -> list[str]:
        return [f"{record['msg']}: {record['error']}" for record in self.log if record["level"] == "error"]

    def interfaces(self) -> list[tuple[str, str, list[str]]]:
        requests = [request.interface for request in self.peer.heard("update_interface")]
        return [(entry.name, entry.devicePath, [ip.address for ip in entry.IPAddresses]) for entry in requests]


@contextmanager
def guest(
    pod: Netns, model: str = "tcfilter", peer: Peer | None = None, directory: str = "/nonexistent"
) -> Iterator[Guest]:
    records: list[dict[str, object]] = []
    peer, log = peer or Peer(), Logger(-1)
    log.forward = records.append
    network = PodNetwork(PodNetworkConfig(pod.path, model=model), 1, directory)
    with ExitStack() as undo:
        undo.callback(peer.close)
        nics = network.join(undo)
        network.enter(cast("Machine", peer), cast("AgentClient", peer), log, undo)
        yield Guest(network, peer, nics, records)
        peer.said.clear()
    assert peer.said == [], "who takes a sandbox down asks neither its machine nor its guest for anything"


@pytest.fixture
def ends() -> Iterator[tuple[Netns, Netns]]:
    """What is outside, and an empty pod."""
    before = open_fds()
    with netns("out") as outside, netns("pod") as pod:
        yield outside, pod
        assert "_kata" not in str(pod.json("link"))
    assert open_fds() == before


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("model", ["tcfilter", "macvtap"])
def test_a_network_that_comes_before_the_start(ends: tuple[Netns, Netns], model: str) -> None:
    """As with Docker 26: whoever starts a container next finds all of it in the guest."""
    outside, pod = ends
    with guest(pod, model) as made:
        assert made.nics == () and made.peer.said == []
        connect(outside, pod, mtu=1400)
        pod.ip("route add default via 10.77.0.1")
        [shown] = pod.json("link show eth0")
        assert made.network.catch_up()
        [nic] = made.peer.heard("add_nic")
        assert (nic.mac, nic.mtu, len(nic.fds)) == (shown["address"], 1400, 1)
        assert made.interfaces() == [("eth0", "1d.0/00", ["10.77.0.2", "fd77::2"])]
        [routes] = made.peer.heard("update_routes")
        assert [(route.gateway, route.device) for route in routes.routes.Routes] == [("10.77.0.1", "eth0")]
        assert made.network.catch_up()
        assert len(made.peer.said) == 3, "what is ours, and what was told, is no news"


def test_a_network_that_comes_to_one_that_runs(ends: tuple[Netns, Netns]) -> None:
    outside, pod = ends
    with guest(pod) as made:
        connect(outside, pod)
        until(lambda: made.interfaces())  # nobody asks for it


def test_a_pod_that_never_has_a_network_waits_for_nothing(
    ends: tuple[Netns, Netns], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One look at the namespace, and no wait for quiet."""
    waits: list[object] = []
    monkeypatch.setattr(Watch, "settle", waits.append)
    with guest(ends[1]) as made:
        for _ in range(10):
            assert made.network.catch_up()
        assert made.peer.said == [] and waits == []


def test_a_second_network_comes_and_goes(ends: tuple[Netns, Netns]) -> None:
    outside, pod = ends
    connect(outside, pod)
    pod.ip("route add default via 10.77.0.1")
    with guest(pod) as made:
        assert len(made.nics) == 1 and made.peer.heard("add_nic") == []
        made.peer.said.clear()
        connect(outside, pod, 1)
        assert made.network.catch_up()
        assert made.interfaces() == [("eth1", "1d.0/00", ["10.77.1.2", "fd77:1::2"])]
        [nic], before = made.peer.heard("add_nic"), pod.json("link")
        made.peer.close()  # the VMM lets go of its copies with the NIC
        made.peer.said.clear()
        pod.ip("link del eth1")
        assert made.network.catch_up()
        assert made.peer.said == [("remove_nic", nic.mac)]
        assert len(pod.json("link")) == len(before) - 2, "its tap is gone too"


def test_an_interface_from_the_start_goes(ends: tuple[Netns, Netns]) -> None:
    """Its NIC cannot leave the machine, so the guest's interface is left without addresses."""
    outside, pod = ends
    connect(outside, pod)
    with guest(pod) as made:
        made.peer.said.clear()
        pod.ip("link del eth0")
        assert made.network.catch_up()
        assert [name for name, _ in made.peer.said] == ["remove_nic", "update_interface"]
        assert made.interfaces() == [("eth0", "", [])]
        connect(outside, pod)  # and comes again: another one, of the same name
        assert made.network.catch_up()
        assert made.interfaces()[1:] == [("eth0", "1d.0/00", ["10.77.0.2", "fd77::2"])]


def test_addresses_and_routes_that_come_late(ends: tuple[Netns, Netns]) -> None:
    outside, pod = ends
    connect(outside, pod)
    with guest(pod, "macvtap") as made:
        [nic] = made.nics
        made.peer.said.clear()
        pod.ip("addr add 10.99.0.2/24 dev eth0")
        assert made.network.catch_up()
        pod.ip("route add default via 10.77.0.1")
        assert made.network.catch_up()
        assert made.interfaces() == [("eth0", "", ["10.77.0.2", "10.99.0.2", "fd77::2"])] * 2
        assert {request.interface.hwAddr for request in made.peer.heard("update_interface")} == {nic.mac}
        assert [request.interface.raw_flags for request in made.peer.heard("update_interface")] == [0, 0]
        [routes] = made.peer.heard("update_routes")
        assert [route.gateway for route in routes.routes.Routes] == ["10.77.0.1"]


@pytest.mark.parametrize(("step", "left"), [("add_nic", []), ("update_interface", ["remove_nic"])])
def test_a_guest_that_cannot_have_it(ends: tuple[Netns, Netns], step: str, left: list[str]) -> None:
    outside, pod = ends
    with guest(pod) as made:
        made.peer.refuse.add(step)
        connect(outside, pod)
        assert made.network.catch_up()
        made.peer.close()
        assert "tap" not in str(pod.json("link"))
        assert made.errors() == [f"the interface 'eth0' does not reach the guest as it is: no {step}"]
        assert [name for name, _ in made.peer.said if name == "remove_nic"] == left
        made.peer.said.clear()
        pod.ip("addr add 10.99.0.2/24 dev eth0")
        assert made.network.catch_up()
        assert made.peer.said == [], "it is not tried at every change"
        made.peer.refuse.clear()
        pod.ip("link del eth0")
        assert made.network.catch_up()
        connect(outside, pod)
        assert made.network.catch_up()
        assert made.peer.heard("add_nic")


def test_an_interface_that_no_guest_can_have_is_named_once(ends: tuple[Netns, Netns]) -> None:
    outside, pod = ends
    with guest(pod) as made:
        pod.ip("link add br0 type bridge")
        pod.ip("addr add 10.55.0.1/24 dev br0")
        pod.ip("addr add 10.55.0.2/24 dev br0")
        assert made.network.catch_up() and made.network.catch_up()
        [error] = made.errors()
        assert "'br0' is of the kind bridge" in error
        pod.ip("link del br0")
        connect(outside, pod)
        assert made.network.catch_up() and len(made.interfaces()) == 1


def test_a_guest_that_does_not_answer_holds_neither_a_start_nor_a_stop(
    ends: tuple[Netns, Netns], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kata.sandbox.latenetwork.STOP_TIMEOUT", 0.1)
    outside, pod = ends
    peer = Peer()
    with guest(pod, peer=peer) as made:
        peer.hold.clear()
        connect(outside, pod)
        until(lambda: peer.said)
        assert not made.network._late.catch_up(0.2)  # type: ignore[union-attr]  # its own time limit is longer
        threading.Timer(0.5, peer.hold.set).start()  # the machine ends, and with it every call
        peer.said.clear()


def test_the_model_none_follows_nothing(ends: tuple[Netns, Netns]) -> None:
    outside, pod = ends
    connect(outside, pod)
    with guest(pod, "none") as made:
        connect(outside, pod, 1)
        assert made.network.catch_up()
        assert made.nics == () and made.peer.said == []


def test_a_pci_device(ends: tuple[Netns, Netns], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From its driver to the guest's machine and back; one that comes to a machine that runs is refused."""
    outside, pod = ends
    sysfs = Sysfs(tmp_path / "sys")
    sysfs.bind("ixgbevf")
    monkeypatch.setattr(vfio, "write_text", sysfs.write)
    monkeypatch.setattr(direct, "bound_to_vfio", lambda address: vfio.bound_to_vfio(address, str(sysfs.root)))
    connect(outside, pod)
    found = [replace(scan(pod.path)[0], kind="physical", pci_address=ADDRESS)]
    monkeypatch.setattr("kata.network.scan.scan", lambda _path: found)
    with guest(pod, directory=str(tmp_path)) as made:
        assert sysfs.driver == "vfio-pci" and noted_devices(str(tmp_path)) == [ADDRESS]
        spec = MachineSpec(sandbox_id="a", directory="/d", kernel="/k", initrd=None, image=None)
        expected = replace(spec, netns=pod.path, host_devices=(HostDevice(ADDRESS),))
        assert (made.nics, made.network.place(spec)) == ((), expected)
        assert made.interfaces() == [("eth0", "1d.0/00", ["10.77.0.2", "fd77::2"])]
        pod.ip("link del eth0")  # as the kernel does it when the driver changes
        assert made.network.catch_up() and not made.peer.heard("remove_nic")
        with pytest.raises(ConfigError, match="came too late"):
            made.network._attach_late(found[0])
    assert sysfs.driver == "ixgbevf" and noted_devices(str(tmp_path)) == []


def test_a_watch_is_woken_and_settles(ends: tuple[Netns, Netns]) -> None:
    outside, pod = ends
    with Watch(pod.path) as watch:
        assert not watch.wait(0)
        connect(outside, pod)
        assert watch.wait(0)
        watch.settle(0.05)
        assert not watch.wait(0)
        timer = threading.Timer(0.05, watch.wake)
        timer.start()
        assert watch.wait()
        timer.join()
        assert [entry.name for entry in watch.look().endpoints] == ["eth0"]
    watch.wake()


def test_a_network_that_never_settles_is_taken_as_it_is(ends: tuple[Netns, Netns]) -> None:
    ended = threading.Event()
    with Watch(ends[1].path) as watch:

        def disturb() -> None:
            while not ended.wait(0.02):
                watch.wake()

        thread = threading.Thread(target=disturb)
        thread.start()
        begin = time.monotonic()
        watch.settle(5.0, limit=0.3)
        assert 0.3 <= time.monotonic() - begin < 5.0
        ended.set()
        thread.join()

"""A pod's network: a veth pair and tcfilter, against a bare tap into the same guest, and a veth pair without a guest.

One booted guest with two cards: one is joined to a pod's interface by our network code, behind the other is a tap in
the outer namespace, with nothing between. The other end of both is this host's kernel in that namespace. Namespaces
are the benchmark's own. Peers are Python here and Python in the guest, in a container of its own image.
"""

from __future__ import annotations

import re
import socket
import statistics
import tempfile
import threading
import time
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING

from tests.helpers.traffic import dial
from tests.kernel.netns import Netns, connect, netns
from tools.bench import turns
from tools.bench.report import Part, compare
from tools.bench.world import BenchError

from kata import paths
from kata.hypervisor.machine import MachineSpec, TapNic
from kata.hypervisor.qemu.machine import QemuMachine
from kata.linux.netns import NetworkNamespace
from kata.linux.tuntap import open_tap
from kata.network import to_guest
from kata.network.attachment import Settings, attach
from kata.network.scan import scan
from kata.osbuilder.assets import present
from kata.protocol.generated import agent_pb2, types_pb2
from kata.sandbox.agent_client import AgentClient
from kata.sandbox.containerplan import ContainerPlan
from kata.sandbox.guest import LAYERS, ROOTFS
from kata.sandbox.spec import ContainerOptions, ProcessOptions, container
from kata.sandbox.translate import Translation, for_guest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tools.bench.options import Options

    Peers = dict[str, tuple[Netns, str]]

BARE, OURS, VETH = "bare tap", "veth and tcfilter", "veth to veth, no guest"
BARE_MAC, BARE_NET = "02:00:00:00:be:0c", "10.78.0"
PORT, CHUNK = 5000, 1 << 18
MIB, SMALL = 32, 1
PINGS, EXCHANGES = 20, 50
BOOT_TIMEOUT, START_TIMEOUT = 120.0, 30.0
NAME = "peer"
SERVER = f"""
import socket
listener = socket.create_server(("0.0.0.0", {PORT}))
zeros = bytes({CHUNK})
while True:
    sock, _ = listener.accept()
    with sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head = sock.recv(16, socket.MSG_WAITALL)
        way, left = head[:1], int(head[1:])
        if way == b"g":
            while left > 0:
                left -= sock.send(zeros[:left])
        elif way == b"p":
            buffer = bytearray(len(zeros))
            while left > 0:
                left -= sock.recv_into(buffer)
            sock.send(b".")
        else:
            while data := sock.recv(1):
                sock.send(data)
"""


def measure(options: Options) -> Part:
    """Throughput each way, and how long a packet takes there and back."""
    runs = max(2, options.runs)
    with world() as peers:
        for place, address in peers.values():
            await_peer(place, address)

        def each(what: Callable[[Netns, str], float]) -> dict[str, list[float]]:
            ways = {name: (lambda where=where: what(*where)) for name, where in peers.items()}
            return turns.take(ways, runs)

        return Part(
            comparisons=[
                compare("From the guest, TCP", "MiB/s", BARE, each(receive), "more"),
                compare("To the guest, TCP", "MiB/s", BARE, each(send), "more"),
                compare("One byte there and back, TCP", "ms", BARE, each(exchange)),
                compare("Ping, ICMP", "ms", BARE, each(ping)),
            ]
        )


# Section: what is measured


def receive(place: Netns, address: str) -> float:
    """MiB a second."""
    with asked(place, address, b"g", MIB << 20) as sock:
        begin, left, buffer = time.monotonic(), MIB << 20, bytearray(CHUNK)
        while left > 0:
            size = sock.recv_into(buffer)
            if not size:
                raise BenchError(f"{left} bytes of {MIB} MiB did not come")
            left -= size
        return MIB / (time.monotonic() - begin)


def send(place: Netns, address: str) -> float:
    """MiB a second, until the other end has read all."""
    with asked(place, address, b"p", MIB << 20) as sock:
        begin, data = time.monotonic(), bytes(CHUNK)
        for _ in range((MIB << 20) // CHUNK):
            sock.sendall(data)
        if sock.recv(1) != b".":
            raise BenchError("the peer did not read all")
        return MIB / (time.monotonic() - begin)


def exchange(place: Netns, address: str) -> float:
    """Milliseconds, the median of several over one connection."""
    with asked(place, address, b"e", 0) as sock:

        def once() -> None:
            sock.sendall(b"x")
            if sock.recv(1) != b"x":
                raise BenchError("the echo did not come")

        return statistics.median(turns.timed(once) * 1000 for _ in range(EXCHANGES))


def ping(place: Netns, address: str) -> float:
    """Milliseconds, the median of several."""
    said = place.command("busybox", "ping", "-c", str(PINGS), "-i", "0.05", "-W", "10", address)
    return statistics.median(round_trips(said))


def round_trips(said: str) -> list[float]:
    """Milliseconds of each answer in what ping prints. Raises BenchError when there was none."""
    found = [float(time) for time in re.findall(r" time=([0-9.]+) ms", said)]
    if not found:
        raise BenchError(f"no answer to ping: {said}")
    return found


@contextmanager
def asked(place: Netns, address: str, way: bytes, size: int) -> Iterator[socket.socket]:
    """A connection whose other end was told what to do."""
    with dial(place, address, PORT) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(way + b"%015d" % size)
        yield sock


def await_peer(place: Netns, address: str) -> None:
    """Until the server answers. Raises BenchError."""
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        try:
            exchange(place, address)
        except OSError as error:
            if time.monotonic() > deadline:
                raise BenchError(f"nobody answers at {address}: {error}") from error
            time.sleep(0.2)
        else:
            return


# Section: what it is measured in


@contextmanager
def world() -> Iterator[Peers]:
    """Where to dial from, and the address, of each way."""
    with ExitStack() as undo:
        outside, pod = undo.enter_context(netns("out")), undo.enter_context(netns("pod"))
        third = undo.enter_context(netns("veth"))
        connect(outside, pod)
        connect(outside, third, 1)
        undo.enter_context(local_server(third))
        agent = undo.enter_context(guest(outside, pod))
        start_server(agent)
        yield {BARE: (outside, f"{BARE_NET}.2"), OURS: (outside, "10.77.0.2"), VETH: (outside, "10.77.1.2")}


@contextmanager
def guest(outside: Netns, pod: Netns) -> Iterator[AgentClient]:
    """A guest with both cards, addressed; its agent."""
    assets = present(paths.assets_dir())
    with ExitStack() as undo:
        [endpoint] = scan(pod.path)
        joined = undo.enter_context(attach(pod.path, endpoint, Settings(model="tcfilter")))
        namespace = undo.enter_context(NetworkNamespace(outside.path))
        tap = open_tap(namespace, "bare")
        undo.callback(tap.close)
        outside.ip("link set bare up")
        outside.ip(f"addr add {BARE_NET}.1/24 dev bare")
        folder = undo.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
        spec = MachineSpec(
            sandbox_id="bench-network",
            directory=folder,
            kernel=assets.kernel,
            initrd=assets.initrd,
            image=assets.image,
            nics=(TapNic(endpoint.mac, joined.fds, endpoint.mtu), TapNic(BARE_MAC, tap.fds, endpoint.mtu)),
        )
        machine = undo.enter_context(QemuMachine(spec))
        machine.boot()
        agent = AgentClient.connect(machine.agent_address(), BOOT_TIMEOUT, threading.Event())
        undo.enter_context(closing(agent))
        bare = types_pb2.Interface(device="bare", name="bare", mtu=endpoint.mtu, hwAddr=BARE_MAC)
        bare.IPAddresses.add(family=types_pb2.IPFamily.v4, address=f"{BARE_NET}.2", mask="24")
        for interface in (to_guest.interface(endpoint), bare):
            agent.update_interface(agent_pb2.UpdateInterfaceRequest(interface=interface))
        yield agent


def start_server(agent: AgentClient) -> None:
    """The server in a container of the guest's own image."""
    layer, place = f"{LAYERS}/{NAME}", f"{ROOTFS}/{NAME}"
    program = ("/usr/bin/python3.11", "-I", "-S", "-c", SERVER)
    options = ContainerOptions(id=NAME, process=ProcessOptions(args=program), hostname=NAME)
    overlay = [f"lowerdir={layer}", "io.katacontainers.fs-opt.overlay-rw"]
    storages = [
        agent_pb2.Storage(driver="bind", source="/", fstype="bind", options=["bind", "ro"], mount_point=layer),
        agent_pb2.Storage(driver="overlayfs", source="overlay", fstype="overlay", options=overlay, mount_point=place),
    ]
    agent.create_container(NAME, ContainerPlan(for_guest(container(options), Translation(rootfs=place)), storages))
    agent.start_container(NAME)


@contextmanager
def local_server(place: Netns) -> Iterator[None]:
    """The same server as a process of this host."""
    import subprocess
    import sys

    words = ["nsenter", f"--net={place.path}", sys.executable, "-I", "-S", "-c", SERVER]
    # A session of its own: Ctrl-C is for the benchmark, which ends it.
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, start_new_session=True) as process:
        try:
            yield
        finally:
            process.kill()

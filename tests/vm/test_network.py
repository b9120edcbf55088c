"""A real guest on a pod's network: two interfaces, one by each model, as the agent sets them up from what was scanned.

One VM for the whole module. The pod's namespace and what is outside of it are namespaces of our own.
"""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from google.protobuf.message import Message

from kata import paths
from kata.hypervisor.machine import MachineSpec, SharedDirectory, TapNic
from kata.hypervisor.qemu.machine import QemuMachine
from kata.linux.netns import NetworkNamespace
from kata.network import to_guest
from kata.network.attachment import Attachment, Settings, attach
from kata.network.scan import scan
from kata.oci.convert import process_to_proto
from kata.protocol.client import Client, connect_agent
from kata.protocol.generated import agent_pb2
from kata.protocol.transport import dial
from tests.helpers.share import Volume, share_volumes
from tests.kernel.netns import Netns, connect, netns
from tests.kernel.test_agent import create_request, make_process, make_rootfs

pytestmark = [pytest.mark.vm, pytest.mark.root, pytest.mark.usefixtures("busybox")]

UID = 1_879_048_194
MIB = 1 << 20
MAY_PING = {kind: ["CAP_NET_RAW"] for kind in ("bounding", "effective", "permitted")}
SHARE = "/run/kata-containers/shared/containers"
NICS = (Settings(model="tcfilter", queues=2), Settings(model="macvtap"))


class Guest:
    """The VM's agent and a container on the guest's network; the namespaces; what was attached."""

    def __init__(self, client: Client, outside: Netns, pod: Netns, joined: list[Attachment]) -> None:
        self.client, self.outside, self.pod, self.joined = client, outside, pod, joined
        self._execs = 0

    def call(self, method: str, request: Message) -> Message:
        return self.client.call(f"grpc.AgentService/{method}", request, timeout=90.0)

    def run(self, script: str) -> str:
        """What a shell in the container says."""
        self._execs += 1
        ids = {"container_id": "box", "exec_id": f"e{self._execs}"}
        process = process_to_proto(make_process("sh", "-c", f"exec 2>&1; {script}", capabilities=MAY_PING))
        self.call("ExecProcess", agent_pb2.ExecProcessRequest(process=process, **ids))  # type: ignore[arg-type]  # names of fields
        said = b""
        while data := self._read(ids):
            said += data
        return said.decode()

    def _read(self, ids: dict[str, str]) -> bytes:
        reply = self.call("ReadStdout", agent_pb2.ReadStreamRequest(len=65536, **ids))
        assert isinstance(reply, agent_pb2.ReadStreamResponse)
        return reply.data


def set_up_network(guest: Guest) -> None:
    endpoints = [attachment.endpoint for attachment in guest.joined]
    for endpoint in endpoints:
        guest.call("UpdateInterface", agent_pb2.UpdateInterfaceRequest(interface=to_guest.interface(endpoint)))
    routes = agent_pb2.Routes(Routes=to_guest.routes(endpoints))
    guest.call("UpdateRoutes", agent_pb2.UpdateRoutesRequest(routes=routes))
    neighbours = agent_pb2.ARPNeighbors(ARPNeighbors=to_guest.neighbours(endpoints))
    guest.call("AddARPNeighbors", agent_pb2.AddARPNeighborsRequest(neighbors=neighbours))


def start_container(guest: Guest) -> None:
    share = agent_pb2.Storage(
        driver="virtio-fs", mount_point=SHARE, source="kataShared", fstype="virtiofs", options=["nodev"]
    )
    guest.call("CreateSandbox", agent_pb2.CreateSandboxRequest(sandbox_id="network", storages=[share]))
    request = create_request("box", "/box", Path(f"{SHARE}/v0"), "sleep", "100000")
    kept = [entry for entry in request.OCI.Linux.Namespaces if entry.Type != "network"]
    del request.OCI.Linux.Namespaces[:]
    request.OCI.Linux.Namespaces.extend(kept)
    guest.call("CreateContainer", request)
    guest.call("StartContainer", agent_pb2.StartContainerRequest(container_id="box"))


def make_pod(stack: ExitStack) -> tuple[Netns, Netns, list[Attachment]]:
    outside, pod = stack.enter_context(netns("out")), stack.enter_context(netns("pod"))
    for number in range(len(NICS)):
        connect(outside, pod, number, mtu=1400)
    pod.ip("route add default via 10.77.0.1")
    pod.ip("route add 10.88.0.0/16 via 10.77.1.1")
    pod.ip("neigh add 10.77.0.9 lladdr 02:00:00:00:00:09 dev eth0 nud permanent")
    outside.ip("addr add 10.88.0.1/32 dev lo")
    endpoints = scan(pod.path)
    joined = [stack.enter_context(attach(pod.path, *pair)) for pair in zip(endpoints, NICS, strict=True)]
    return outside, pod, joined


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory, busybox: str) -> Iterator[Guest]:
    folder = tmp_path_factory.mktemp("network")
    (folder / "vm").mkdir(mode=0o700)
    rootfs = make_rootfs(folder / "rootfs")
    assets = paths.assets_dir()
    with ExitStack() as stack:
        outside, pod, joined = make_pod(stack)
        share = stack.enter_context(share_volumes([Volume(str(rootfs))], str(folder / "vm")))
        spec = MachineSpec(
            sandbox_id="network",
            directory=str(folder / "vm"),
            kernel=str(assets / "vmlinuz"),
            initrd=str(assets / "initrd.img") if (assets / "initrd.img").exists() else None,
            image=str(assets / "kata-containers.img"),
            accelerator="tcg",
            transport="serial",
            nics=tuple(TapNic(entry.endpoint.mac, entry.fds, entry.endpoint.mtu) for entry in joined),
            shares=(SharedDirectory(share.tag, share.socket_path),),
            uid=UID,
            gid=UID,
        )
        machine = stack.enter_context(QemuMachine(spec))
        machine.boot()
        for attachment in joined:
            attachment.hand_over()
        client = connect_agent(lambda: dial(machine.agent_address(), 60.0), 90.0)
        stack.callback(client.close)
        made = Guest(client, outside, pod, joined)
        set_up_network(made)
        start_container(made)
        yield made
        machine.close()
        for attachment in joined:
            attachment.close()
        assert sorted(link["ifname"] for link in pod.json("link")) == ["eth0", "eth1", "lo"]
        assert "ingress" not in pod.command("tc", "qdisc", "show")


def test_the_guest_has_the_pods_network(guest: Guest) -> None:
    reply = guest.call("ListInterfaces", agent_pb2.ListInterfacesRequest())
    assert isinstance(reply, agent_pb2.Interfaces)
    found = {entry.name: entry for entry in reply.Interfaces}
    for number, attachment in enumerate(guest.joined):
        interface = found[f"eth{number}"]
        assert (interface.hwAddr, interface.mtu) == (attachment.endpoint.mac, 1400)
        addresses = {entry.address for entry in interface.IPAddresses}
        assert addresses >= {f"10.77.{number}.2", "fd77::2" if not number else "fd77:1::2"}
    listed = guest.call("ListRoutes", agent_pb2.ListRoutesRequest())
    assert isinstance(listed, agent_pb2.Routes)
    routes = {(entry.dest, entry.gateway, entry.device) for entry in listed.Routes}
    assert {("0.0.0.0", "10.77.0.1", "eth0"), ("10.88.0.0/16", "10.77.1.1", "eth1")} <= routes
    assert "02:00:00:00:00:09" in guest.run("busybox cat /proc/net/arp")


@pytest.mark.parametrize("number", [0, 1])
def test_pings_both_ways(guest: Guest, number: int) -> None:
    six = f"fd77:{number}::"
    for address in (f"10.77.{number}.2", f"{six}2"):
        assert guest.outside.ping(address, wait=30)
        assert guest.outside.ping(address, size=1352, wait=30)  # with headers the MTU, 1400
    for address in (f"10.77.{number}.1", f"{six}1"):
        assert "1 packets received" in guest.run(f"busybox ping -c 1 -W 30 -s 1352 {address}")
    assert "1 packets received" in guest.run("busybox ping -c 1 -W 30 10.88.0.1")


class Peer:
    """A TCP server outside: takes one connection, sends `data`, and keeps what comes."""

    def __init__(self, outside: Netns, address: str, data: bytes) -> None:
        self.received, self._data = b"", data
        with NetworkNamespace(outside.path) as namespace:
            self._server = namespace.call(lambda: socket.create_server((address, 5000)))
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Peer:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._thread.join()
        self._server.close()

    def _serve(self) -> None:
        self._server.settimeout(120)
        connection, _ = self._server.accept()
        with connection:
            connection.settimeout(120)
            if self._data:
                connection.sendall(self._data)
                connection.shutdown(socket.SHUT_WR)
            while chunk := connection.recv(MIB):
                self.received += chunk


@pytest.mark.parametrize("number", [0, 1])
def test_tcp_arrives_whole(guest: Guest, number: int) -> None:
    """4 MiB into the guest and back, through offloads that leave checksums and segments to the other end."""
    address, data = f"10.77.{number}.1", os.urandom(4 * MIB)
    with Peer(guest.outside, address, data):  # /dev is the container's own tmpfs, its root is shared read-only
        guest.run(f"busybox nc {address} 5000 </dev/null >/dev/got")
    assert guest.run("busybox sha256sum </dev/got").split()[0] == hashlib.sha256(data).hexdigest()
    with Peer(guest.outside, address, b"") as peer:
        guest.run(f"busybox nc {address} 5000 </dev/got; rm /dev/got")
    assert peer.received == data

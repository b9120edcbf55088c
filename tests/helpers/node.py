"""A node of a cluster without the cluster: containerd with CNI in a network namespace, driven over CRI."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kata import paths
from kata.linux.netns import NetworkNamespace
from kata.shim.address import socket_path
from tests.helpers.cli import leftovers
from tests.helpers.containerd import Containerd
from tests.helpers.cri import Cri
from tests.helpers.spdy import Spdy
from tests.kernel.netns import Netns, netns, run

GONE_TIMEOUT = 15.0
SUBNET = "10.88.7.0/24"
CNI = {
    "cniVersion": "0.4.0",
    "name": "pods",
    "plugins": [
        {"type": "bridge", "bridge": "cni0", "isGateway": True},
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}


class Node:
    """What a kubelet would talk to; `host` is the namespace that pods' networks take for the host's.

    `pods` is the folder in which a kubelet would have its volumes.
    """

    def __init__(self, folder: Path, host: Netns) -> None:
        self.folder = folder
        self.host = host
        self.pods = folder / "pods"
        self.daemon = Containerd(folder, host.path)
        self.daemon.namespace = "k8s.io"
        self._write_network()
        self.daemon.start()
        self.daemon.import_image()
        self.daemon.import_pause()
        self.cri = Cri(self.daemon.address)
        self.cri.await_service()

    def restart(self, number: int) -> None:
        """End containerd with a signal and start it again."""
        self.daemon.stop(number)
        self.daemon.start()
        self.cri.await_service()

    def stream(self, url: str, protocol: str) -> Spdy:
        """Connect to a streaming URL of containerd's."""
        return Spdy(url, protocol, self.connect)

    def connect(self, address: str, port: int) -> socket.socket:
        """A TCP connection to something in the node's namespace."""
        with NetworkNamespace(self.host.path) as namespace:
            sock = namespace.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        sock.settimeout(30.0)
        sock.connect((address, port))
        return sock

    def left_behind(self) -> list[str]:
        """What there should not be once every pod was removed."""
        state = self.folder / "state/io.containerd.grpc.v1.cri/netns"
        found = [f"namespace {path}" for path in state.glob("*")]
        found += [f"address {path.name}" for path in (self.folder / "cni/pods").glob("10.*")]
        found += [f"link {link['ifname']}" for link in self.host.json("link") if link["ifname"].startswith("veth")]
        sockets = [socket_path(str(self.daemon.address), self.daemon.namespace, pod) for pod in self.cri.pods]
        found += [f"socket {path}" for path in sockets if os.path.exists(path)]
        found += [f"container {name}" for name in self.daemon.ctr("container", "ls", "-q").stdout.decode().split()]
        found += [f"shim {pid}" for pid in self.daemon.shims()]
        return found + leftovers()

    def await_nothing_left(self) -> None:
        """A shim ends a moment after its last answer."""
        deadline = time.monotonic() + GONE_TIMEOUT
        while (left := self.left_behind()) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert not left, left

    def _write_network(self) -> None:
        ipam = {
            "type": "host-local",
            "dataDir": str(self.folder / "cni"),
            "ranges": [[{"subnet": SUBNET}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        }
        bridge, *others = CNI["plugins"]
        assert isinstance(bridge, dict)
        text = json.dumps({**CNI, "plugins": [{**bridge, "ipam": ipam}, *others]})
        (self.folder / "net.d").mkdir()
        (self.folder / "net.d/10-pods.conflist").write_text(text)


@contextmanager
def node() -> Iterator[Node]:
    """A running node; afterwards nothing of it is there."""
    folder = Path(tempfile.mkdtemp(prefix="kn-", dir="/run"))
    try:
        with netns("node") as host, shared_folder(folder / "pods"):
            made = Node(folder, host)
            try:
                yield made
            finally:
                made.cri.remove_all()
                made.cri.close()
                made.daemon.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def shared_folder(path: Path) -> Iterator[None]:
    """A folder in which mounts are seen in other mount namespaces, as all of a host is with systemd."""
    path.mkdir()
    run("mount", "--bind", str(path), str(path))
    try:
        run("mount", "--make-shared", str(path))
        yield
    finally:
        run("umount", str(path))


def vmm_pid(pod_id: str) -> int:
    """The QEMU of a pod."""
    return int((paths.vm_dir() / pod_id / "pid").read_text())


def kill(pid: int, number: int) -> None:
    """Signal a process that a test knows to be its own."""
    os.kill(pid, number)

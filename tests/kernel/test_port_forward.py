"""Every port of a namespace's loopback leads to the pod, and nothing of that stays."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from kata.log import Logger
from kata.shim.portforward import Forwarder, listen, pod_address, start_forwarder
from tests.helpers.traffic import dial
from tests.kernel.netns import Netns, connect, netns, open_fds

pytestmark = pytest.mark.root


@pytest.fixture
def pod() -> Iterator[Netns]:
    with netns("pod") as made:
        yield made


@pytest.fixture
def forwarder(pod: Netns) -> Iterator[Forwarder]:
    """To our own loopback, which stands for the pod."""
    made = Forwarder(*listen(pod.path), "127.0.0.1", Logger(2, level="error"))
    yield made
    made.close()


def serve_once(server: socket.socket) -> None:
    """Send back what comes, once it has ended."""
    client, _ = server.accept()
    with client:
        data = b""
        while part := client.recv(65536):
            data += part
        client.sendall(data[::-1])


def test_both_ways_with_half_closed_streams(pod: Netns, forwarder: Forwarder) -> None:
    data = os.urandom(1_000_000)
    with socket.create_server(("127.0.0.1", 0)) as server:
        for address in ("127.0.0.1", "127.3.2.1"):
            thread = threading.Thread(target=serve_once, args=(server,))
            thread.start()
            with dial(pod, address, server.getsockname()[1]) as sock:
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
                received = b""
                while part := sock.recv(65536):
                    received += part
            thread.join(10)
            assert received == data[::-1]


def test_where_nobody_listens(pod: Netns, forwarder: Forwarder) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ConnectionResetError), dial(pod, "127.0.0.1", port) as sock:
        sock.recv(1)


def test_nothing_stays(pod: Netns) -> None:
    before = open_fds()
    made = Forwarder(*listen(pod.path), "127.0.0.1", Logger(2, level="error"))
    with socket.create_server(("127.0.0.1", 0)) as server, dial(pod, "127.0.0.1", server.getsockname()[1]) as sock:
        client, _ = server.accept()
        made.close()
        made.close()
        assert sock.recv(1) == b"" and client.recv(1) == b""
        client.close()
    for thread in threading.enumerate():
        if thread.name == "port-forward":
            thread.join(10)
    assert open_fds() == before
    with pytest.raises(ConnectionRefusedError):
        dial(pod, "127.0.0.1", 80)


def test_other_addresses_are_left_alone(pod: Netns, forwarder: Forwarder) -> None:
    with netns("out") as outside:
        connect(outside, pod)
        assert pod_address(pod.path) == "10.77.0.2"
        for address in ("10.77.0.2", "::1"):
            with pytest.raises(ConnectionRefusedError):
                dial(pod, address, 80)


def test_a_pod_without_an_address(pod: Netns) -> None:
    assert start_forwarder(pod.path, Logger(2, level="error")) is None

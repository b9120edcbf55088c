"""exec, attach and port-forward through containerd's streaming server, as `kubectl` uses them."""

from __future__ import annotations

import hashlib
import os
from contextlib import ExitStack

import pytest

from tests.containerd.cri.conftest import FOREVER, linux
from tests.helpers.cri import Container, Pod, await_true
from tests.helpers.node import Node
from tests.helpers.spdy import Spdy, Stream, exit_code

pytestmark = [pytest.mark.containerd, pytest.mark.root]

PROTOCOL = "v4.channel.k8s.io"


class Session:
    """An exec or attach: its streams, the error stream first, as Kubernetes' clients open them."""

    def __init__(self, stack: ExitStack, node: Node, url: str, *names: str) -> None:
        spdy: Spdy = stack.enter_context(node.stream(url, PROTOCOL))
        opened: dict[str, Stream] = {name: spdy.open(streamType=name) for name in ("error", *names)}
        self.error = opened["error"]
        self.stdin, self.stdout = opened.get("stdin"), opened["stdout"]
        self.stderr, self.resize = opened.get("stderr"), opened.get("resize")


def test_exec_with_all_streams(node: Node, one: Container) -> None:
    data = os.urandom(2_000_000)
    script = "echo ready >&2; sha256sum; exit 6"
    asked = {"cmd": ["sh", "-c", script], "stdin": True, "stdout": True, "stderr": True}
    url = node.cri("Exec", container_id=one.id, **asked).url
    with ExitStack() as stack:
        session = Session(stack, node, url, "stdin", "stdout", "stderr")
        assert session.stdin and session.stderr
        session.stderr.read_until(b"ready\n")
        for start in range(0, len(data), 1 << 16):
            session.stdin.write(data[start : start + (1 << 16)])
        session.stdin.write(b"", last=True)
        assert session.stdout.read_all().split()[0].decode() == hashlib.sha256(data).hexdigest()
        assert exit_code(session.error.read_all()) == 6


def test_exec_with_a_terminal(node: Node, one: Container) -> None:
    url = node.cri("Exec", container_id=one.id, cmd=["sh"], tty=True, stdin=True, stdout=True).url
    with ExitStack() as stack:
        session = Session(stack, node, url, "stdin", "stdout", "resize")
        assert session.stdin and session.resize
        session.resize.write(b'{"Width": 91, "Height": 47}')
        session.stdout.read_until(b"# ")
        session.stdin.write(b"until stty size | grep -q 47; do sleep 0.1; done; stty size; tty\n")
        session.stdout.read_until(b"47 91\r\n")
        session.stdout.read_until(b"/dev/pts/")
        session.stdin.write(b"exit 3\n")
        assert exit_code(session.error.read_all()) == 3


def test_attach_again_and_again(node: Node, pod: Pod) -> None:
    script = "while read line; do echo got $line; done; echo end"
    container = pod.run("talk", "sh", "-c", script, stdin=True, linux=linux())
    for word in (b"one", b"two"):
        url = node.cri("Attach", container_id=container.id, stdin=True, stdout=True, stderr=True).url
        with ExitStack() as stack:
            session = Session(stack, node, url, "stdin", "stdout", "stderr")
            assert session.stdin
            session.stdin.write(word + b"\n")
            session.stdout.read_until(b"got " + word + b"\n")
    assert container.running
    await_true(lambda: container.said() == "got one\ngot two\n", "the log")
    container.remove()


def test_input_that_ends_once(node: Node, pod: Pod) -> None:
    container = pod.run("once", "sh", "-c", "cat; echo end", stdin=True, stdin_once=True, linux=linux())
    url = node.cri("Attach", container_id=container.id, stdin=True, stdout=True, stderr=True).url
    with ExitStack() as stack:
        session = Session(stack, node, url, "stdin", "stdout", "stderr")
        assert session.stdin
        session.stdin.write(b"hello\n", last=True)
        session.stdout.read_until(b"hello\nend\n")
    assert container.await_end().exit_code == 0
    container.remove()


def test_port_forward(node: Node, pod: Pod) -> None:
    data = os.urandom(500_000)
    server = pod.run("server", *FOREVER, linux=linux())
    server.shell("nc -ll -p 8080 -e cat >/dev/null 2>&1 &")
    await_true(lambda: "8080" in server.shell("netstat -ltn"), "the server")
    url = node.cri("PortForward", pod_sandbox_id=pod.id, port=[8080]).url
    with node.stream(url, "portforward.k8s.io") as spdy:
        for request in ("0", "1"):
            headers = {"port": "8080", "requestID": request}
            error = spdy.open(streamType="error", **headers)
            stream = spdy.open(streamType="data", **headers)
            stream.write(data)
            assert stream.read(len(data)) == data
            stream.write(b"", last=True)  # containerd ends both directions a second later
            assert (stream.read_all(), error.read_all()) == (b"", b"")
    server.remove()

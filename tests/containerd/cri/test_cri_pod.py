"""A pod as a kubelet sees it, and what its containers share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.containerd.cri.conftest import FOREVER, linux
from tests.helpers.cri import Container, Pod, await_true
from tests.helpers.node import Node
from tests.kernel.netns import run

pytestmark = [pytest.mark.containerd, pytest.mark.root]


def test_what_a_pod_is(node: Node, pod: Pod) -> None:
    status = pod.status
    assert (status.state, status.runtime_handler) == (0, "kata")
    assert (dict(status.labels), dict(status.annotations)) == ({"app": "web"}, {"note": "kept"})
    assert status.metadata.name == pod.config["metadata"]["name"]
    [item] = node.cri("ListPodSandbox", filter={"label_selector": {"app": "web"}}).items
    assert (item.id, item.state, item.runtime_handler) == (pod.id, 0, "kata")
    assert pod.ip.startswith("10.88.7.")
    assert node.host.ping(pod.ip)


def test_the_network_is_shared(node: Node, pod: Pod, one: Container, two: Container) -> None:
    one.shell("echo hello | nc -l -p 7000 >/dev/null 2>&1 &")
    assert two.shell("until nc 127.0.0.1 7000 </dev/null; do sleep 0.2; done") == "hello\n"
    one.shell("echo again | nc -l -p 7001 >/dev/null 2>&1 & while ! netstat -ltn | grep -q 7001; do sleep 0.2; done")
    with node.connect(pod.ip, 7001) as sock:
        assert sock.recv(100) == b"again\n"
    assert f"inet {pod.ip}/24" in two.shell("ip addr show eth0")
    assert "default via 10.88.7.1 dev eth0" in two.shell("ip route")


def test_ipc_and_the_host_name_are_shared(pod: Pod, one: Container, two: Container) -> None:
    assert one.shell("hostname") == two.shell("hostname") == pod.config["hostname"] + "\n"
    one.shell("echo shared > /dev/shm/file")
    assert two.shell("cat /dev/shm/file") == "shared\n"
    for name in ("ipc", "uts", "net"):
        assert one.shell(f"readlink /proc/self/ns/{name}") == two.shell(f"readlink /proc/self/ns/{name}")


def test_processes_are_apart_unless_they_are_asked_to_be_together(pod: Pod, one: Container, two: Container) -> None:
    assert one.shell("readlink /proc/self/ns/pid") != two.shell("readlink /proc/self/ns/pid")
    assert one.shell("cat /proc/1/cmdline").startswith("sh")
    together = linux(namespace_options={"pid": "POD"})
    three, four = (pod.run(name, *FOREVER, linux=together) for name in ("three", "four"))
    assert three.shell("readlink /proc/self/ns/pid") == four.shell("readlink /proc/self/ns/pid")
    assert "sleep 1000" in three.shell("cat /proc/*/cmdline | tr '\\0' ' '")  # of the pause container
    four.shell("sleep 577 >/dev/null 2>&1 & echo $! > /dev/shm/pid")
    assert "sleep 577" in three.shell("ps -o args")
    assert "sleep 577" not in one.shell("ps -o args")
    three.shell("kill $(cat /dev/shm/pid)")
    await_true(lambda: "sleep 577" not in four.shell("ps -o args"), "the end of a process of the other container")
    for container in (three, four):
        container.remove()
    assert one.running


def test_a_container_among_the_processes_of_another(pod: Pod, one: Container, two: Container) -> None:
    """As `kubectl debug --target` makes it."""
    assert len({pod.pid, one.pid, two.pid}) == 3
    debug = pod.run("debug", *FOREVER, linux=linux(namespace_options={"pid": "TARGET", "target_id": one.id}))
    assert debug.pid not in (one.pid, two.pid)
    show = "readlink /proc/self/ns/pid"
    assert debug.shell(show) == one.shell(show) != two.shell(show)
    one.shell("sleep 578 >/dev/null 2>&1 & echo $! > /dev/shm/pid")
    assert "sleep 578" in debug.shell("ps -o args")
    assert "sleep 1000" not in debug.shell("cat /proc/*/cmdline | tr '\\0' ' '")  # of the pause container
    debug.shell("kill $(cat /dev/shm/pid)")
    await_true(lambda: "sleep 578" not in one.shell("ps -o args"), "the end of a process of the target")
    debug.remove()
    assert one.running


def test_a_container_has_a_place_on_the_host(pod: Pod, one: Container) -> None:
    """Its process id names its pod's network, for `nsenter` and the like, as long as it is there."""
    assert f"inet {pod.ip}/24" in run("nsenter", f"--net=/proc/{one.pid}/ns/net", "ip", "address")
    short = pod.run("short", *FOREVER, linux=linux())
    pid = short.pid
    short.remove()
    await_true(lambda: not os.path.exists(f"/proc/{pid}"), "the end of what stood for a container")


def test_names_and_addresses(pod: Pod, one: Container) -> None:
    text = one.shell("cat /etc/resolv.conf")
    lines = [line.split() for line in text.splitlines()]
    assert [words[1] for words in lines if words[0] == "nameserver"] == ["10.88.7.53", "10.88.7.54"]
    assert ["search", "tests.local"] in lines and ["options", "ndots:3"] in lines
    assert one.shell("cat /etc/hostname") == pod.config["hostname"] + "\n"
    assert one.shell("cat /etc/hosts") == Path("/etc/hosts").read_text()


def test_what_containers_use(node: Node, pod: Pod, one: Container, two: Container) -> None:
    one.shell("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done")
    stats = node.cri("ContainerStats", container_id=one.id).stats
    assert stats.attributes.metadata.name == "one"
    assert 10**7 < stats.cpu.usage_core_nano_seconds.value < 10**12
    assert 10**5 < stats.memory.working_set_bytes.value < 10**8
    found = node.cri("ListContainerStats", filter={"pod_sandbox_id": pod.id}).stats
    assert {entry.attributes.id for entry in found} >= {one.id, two.id}
    assert all(entry.memory.working_set_bytes.value for entry in found)
    later = node.cri("ContainerStats", container_id=one.id).stats
    assert later.cpu.usage_core_nano_seconds.value >= stats.cpu.usage_core_nano_seconds.value

"""Networks that come to a container that runs, and go."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers.boxes import ECHO, PATIENT, Box, check_echo
from tests.helpers.cni import Cni, addresses
from tests.helpers.containerd import Containerd
from tests.helpers.cri import await_true
from tests.kernel.netns import Netns, connect, netns, run

pytestmark = [pytest.mark.containerd, pytest.mark.root]

LIMITED = """
[hypervisor.qemu]
network_queues = 2
rx_rate_limiter_max_rate = 16000000
"""


def test_networks_that_come_and_go_while_a_container_runs(containerd: Containerd, tmp_path: Path) -> None:
    """They have the queues and the limits that the configuration says, as if they had been there from the start."""
    (config := tmp_path / "configuration.toml").write_text(LIMITED + PATIENT)
    with netns("host") as host, netns("pod") as pod:
        cni = Cni(host, tmp_path)
        box = Box(containerd, "late", pod, ("", ""))
        box.start("--runtime-config-path", str(config))
        try:
            assert box.shell("ls /sys/class/net") == "lo\n"
            box.four, box.six = addresses(cni.add(pod, cni.bridge(mtu=1400)))
            await_true(lambda: "default" in box.shell("ip route"), "the first network")
            assert f"{box.four}/24" in box.shell("ip addr show eth0")
            [tap] = [link for link in pod.json("link") if link["ifname"].endswith("_kata")]
            assert tap["linkinfo"]["info_data"]["multi_queue"]
            assert host.ping(box.four, size=1372, wait=30) and host.ping(box.six, size=1352, wait=30)
            assert check_echo(host, box.four, 8) > 3.0, "2 MB a second reach the guest, but for the first"
            connect(host, pod, 1)
            await_true(lambda: "10.77.1.2/24" in box.shell("ip addr show"), "the second network")
            cni.remove(pod, cni.bridge())
            await_true(lambda: box.shell("ls /sys/class/net") == "eth1\nlo\n", "the end of the first network")
            check_echo(host, "10.77.1.2", 1)
        finally:
            containerd.remove("late")
        assert sorted(link["ifname"] for link in pod.json("link")) == ["eth1", "lo"]
        assert "tbf" not in pod.command("tc", "qdisc", "show")


def test_a_network_that_is_made_for_the_pid_of_a_task(containerd: Containerd, tmp_path: Path) -> None:
    """As Docker does it from 26 on: the specification names no namespace, and the engine asks whose the process is."""
    containerd.run("nameless", "sh", "-c", ECHO)
    try:
        [line] = [line for line in containerd.ctr("task", "ls").stdout.decode().splitlines() if "nameless" in line]
        with attached(int(line.split()[1])) as pod, netns("host") as host:
            assert [link["ifname"] for link in pod.json("link")] == ["lo"]
            cni = Cni(host, tmp_path)
            box = Box(containerd, "nameless", pod, addresses(cni.add(pod, cni.bridge())))
            await_true(lambda: "default" in box.shell("ip route"), "the network")
            check_echo(host, box.four, 1)
            assert host.ping(box.six, wait=30)
            cni.remove(pod, cni.bridge())
    finally:
        containerd.remove("nameless")


@contextmanager
def attached(pid: int) -> Iterator[Netns]:
    """A process's network namespace under a name. It must not be ours."""
    assert os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net")
    pod = Netns(f"kt-pid-{pid}")
    run("ip", "netns", "attach", pod.name, str(pid))
    try:
        yield pod
    finally:
        run("ip", "netns", "del", pod.name)

"""What pods and containers use, as a kubelet asks for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.containerd.cri.conftest import FOREVER, linux
from tests.helpers.cri import HANDLER, Container, Pod
from tests.helpers.hostcgroups import pod_cgroup
from tests.helpers.node import Node

pytestmark = [pytest.mark.containerd, pytest.mark.root]

MIB = 1 << 20
SECOND = 10**9
TOGETHER = "together"
"""The runtime of containerd with all of a sandbox in one cgroup."""


@pytest.fixture(scope="module", params=[HANDLER, TOGETHER])
def counted(node: Node, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Pod]:
    """A pod with a cgroup of its own, without which containerd has no counters of pods."""
    path = f"/tests-{os.getpid()}"
    with pod_cgroup(path):
        config = {"cgroup_parent": path, **linux()}
        made = node.cri.pod(tmp_path_factory.mktemp("logs"), request.param, linux=config)
        yield made
        made.remove()


def stats_of(node: Node, pod: Pod) -> Any:
    return node.cri("PodSandboxStats", pod_sandbox_id=pod.id).stats


def test_what_a_pod_uses(node: Node, counted: Pod) -> None:
    busy, idle = (counted.run(name, *FOREVER, linux=linux()) for name in ("busy", "idle"))
    before = stats_of(node, counted)
    assert before.attributes.metadata.name == counted.config["metadata"]["name"]
    assert {entry.attributes.metadata.name for entry in before.linux.containers} == {"busy", "idle"}
    busy.shell("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; head -c 3000000 /dev/zero > /dev/shm/file")
    assert node.host.ping(counted.ip)
    after = stats_of(node, counted)
    used = after.linux.cpu.usage_core_nano_seconds.value - before.linux.cpu.usage_core_nano_seconds.value
    assert SECOND // 10 < used < 60 * SECOND
    assert _cpu(after, busy) - _cpu(before, busy) > _cpu(after, idle) - _cpu(before, idle)
    assert _memory(after, busy) > _memory(before, busy) + 2 * MIB
    network = after.linux.network.default_interface
    assert network.name == "eth0"
    assert network.rx_bytes.value > before.linux.network.default_interface.rx_bytes.value
    assert network.tx_bytes.value > before.linux.network.default_interface.tx_bytes.value
    assert after.linux.process.process_count.value >= 2
    if counted.status.runtime_handler == TOGETHER:  # else memory is counted in the overhead's cgroup
        assert 60 * MIB < after.linux.memory.usage_bytes.value < 2000 * MIB
        assert after.linux.memory.working_set_bytes.value > 0
    for container in (busy, idle):
        container.remove()


def test_lists(node: Node, counted: Pod) -> None:
    one = counted.run("one", *FOREVER, linux=linux())
    found = node.cri("ListPodSandboxStats", filter={"id": counted.id}).stats
    assert [entry.attributes.id for entry in found] == [counted.id]
    assert one.id in [entry.attributes.id for entry in found[0].linux.containers]
    listed = node.cri("ListContainerStats", filter={"pod_sandbox_id": counted.id}).stats
    [mine] = [entry for entry in listed if entry.attributes.id == one.id]
    alone = node.cri("ContainerStats", container_id=one.id).stats
    assert alone.cpu.usage_core_nano_seconds.value >= mine.cpu.usage_core_nano_seconds.value > 0
    assert 0 < alone.memory.working_set_bytes.value <= alone.memory.usage_bytes.value < 200 * MIB
    one.remove()


def _counters(stats: Any, container: Container) -> Any:
    [found] = [entry for entry in stats.linux.containers if entry.attributes.id == container.id]
    return found


def _cpu(stats: Any, container: Container) -> int:
    return int(_counters(stats, container).cpu.usage_core_nano_seconds.value)


def _memory(stats: Any, container: Container) -> int:
    return int(_counters(stats, container).memory.usage_bytes.value)

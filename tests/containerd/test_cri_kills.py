"""Pods whose containerd, shim or VMM is killed: what a kubelet sees then, and that nothing is left of them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.cri import Container, Pod, await_true
from tests.helpers.node import Node, kill, vmm_pid

pytestmark = [pytest.mark.containerd, pytest.mark.root]

COUNT = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.3; done"


@pytest.fixture
def pod(node: Node, tmp_path: Path) -> Iterator[Pod]:
    made = node.cri.pod(tmp_path)
    yield made
    made.remove()
    node.await_nothing_left()


def numbers(container: Container) -> list[int]:
    return [int(line) for line in container.said().split()] if container.log.exists() else []


def await_loss(pod: Pod, container: Container) -> None:
    """What containerd must find out by itself."""
    assert container.await_end().exit_code in (137, 255)
    await_true(lambda: not pod.ready, "the end of the pod")
    container.remove()


def test_containerd_then_the_shim(node: Node, pod: Pod) -> None:
    container = pod.run("counts", "sh", "-c", COUNT)
    await_true(lambda: len(numbers(container)) > 3, "numbers")
    before = numbers(container)[-1]
    node.restart(signal.SIGKILL)
    assert pod.ready and container.running
    assert container.shell("echo still here") == "still here\n"
    await_true(lambda: numbers(container)[-1] > before + 5, "more numbers")
    said = numbers(container)
    assert said == sorted(set(said)), "a line came twice, or out of order"
    assert said[-1] - len(said) < 20, "too many lines were lost"
    [shim] = node.daemon.shims()
    kill(shim, signal.SIGKILL)
    await_loss(pod, container)


def test_the_vmm(node: Node, pod: Pod) -> None:
    container = pod.run("counts", "sh", "-c", COUNT)
    kill(vmm_pid(pod.id), signal.SIGKILL)
    await_loss(pod, container)

"""One pod, and so one VM, for all tests of this folder: what they add to it they remove."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.helpers.cri import Container, Pod
from tests.helpers.node import Node

DNS = {"servers": ["10.88.7.53", "10.88.7.54"], "searches": ["tests.local"], "options": ["ndots:3"]}
FOREVER = ("sh", "-c", "while :; do sleep 1; done")


def linux(**security: Any) -> dict[str, Any]:
    """The Linux part of a container's configuration; its processes are apart, as Kubernetes has it by default."""
    return {"security_context": {"namespace_options": {"pid": "CONTAINER"}, **security}}


PRIVILEGED = linux(privileged=True)
"""A pod says beforehand that it may have privileged containers; those that ask for nothing are not."""


@pytest.fixture(scope="package")
def pod(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    logs = tmp_path_factory.mktemp("logs")
    made = node.cri.pod(logs, dns_config=DNS, labels={"app": "web"}, annotations={"note": "kept"}, linux=PRIVILEGED)
    yield made
    made.remove()
    node.await_nothing_left()


@pytest.fixture(scope="package")
def one(pod: Pod) -> Container:
    return pod.run("one", *FOREVER, linux=linux())


@pytest.fixture(scope="package")
def two(pod: Pod) -> Container:
    return pod.run("two", *FOREVER, linux=linux())

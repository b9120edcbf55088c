"""A real containerd for this floor, started once; every test checks that nothing is left of its sandboxes."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from kata import paths
from tests.helpers import evidence
from tests.helpers.cli import leftovers
from tests.helpers.containerd import Containerd
from tests.helpers.node import Node
from tests.helpers.node import node as running_node

GONE_TIMEOUT = 15.0


@pytest.fixture(scope="session")
def daemon(busybox: str) -> Iterator[Containerd]:
    """A running containerd with the busybox image."""
    folder = Path(tempfile.mkdtemp(prefix="kc-", dir="/run"))
    made = Containerd(folder)
    made.start()
    try:
        made.import_image()
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def containerd(daemon: Containerd) -> Iterator[Containerd]:
    """The daemon; afterwards no task, no shim and no trace of a sandbox may be left."""
    yield daemon
    left = await_nothing_left(daemon)
    for name in daemon.ctr("container", "ls", "-q").stdout.decode().split():
        daemon.remove(name)
    assert left == []


@pytest.fixture(scope="session")
def node(busybox: str) -> Iterator[Node]:
    """A containerd with a network for pods; modules run their pods in it and remove them."""
    with running_node() as made:
        yield made


def await_nothing_left(daemon: Containerd) -> list[str]:
    """What is left after a while that should not be: a shim ends a moment after its last answer."""
    deadline = time.monotonic() + GONE_TIMEOUT
    while (left := left_behind(daemon)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


def left_behind(daemon: Containerd) -> list[str]:
    """What there should not be once every container was removed."""
    found = [f"container {name}" for name in daemon.ctr("container", "ls", "-q").stdout.decode().split()]
    found += [f"task {line}" for line in daemon.ctr("task", "ls", "-q").stdout.decode().split()]
    found += [f"shim {pid}" for pid in daemon.shims()]
    return found + leftovers()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attach containerd's log, which holds the shims', and what our processes were doing."""
    report = yield
    arguments = getattr(item, "funcargs", {})
    daemon = arguments.get("containerd") or getattr(arguments.get("node"), "daemon", None)
    if report.failed and isinstance(daemon, Containerd) and daemon.log.exists():
        report.sections.append(("containerd's log", daemon.log.read_text(errors="replace")[-12000:]))
        report.sections += evidence.collect([paths.state_dir()], os.getpid())
    return report

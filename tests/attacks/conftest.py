"""A sandbox of each kind for the attackers of this floor, whose guest they own. Others use it after them."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from kata import paths
from tests.helpers import evidence
from tests.helpers.arena import Arena


@pytest.fixture(scope="session")
def arena(busybox: str, debug_image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    """A sandbox with a share by virtio-fs, and places for disks. Each test takes its containers away."""
    with Arena(tmp_path_factory.mktemp("arena"), debug_image) as made:
        yield made


@pytest.fixture(autouse=True)
def _removed(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever became of the attempt, the next one meets no container of it."""
    yield
    if "arena" in request.fixturenames:
        made: Arena = request.getfixturevalue("arena")
        for container in made.sandbox.containers:
            made.remove(container.id)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attach the logs and what our processes were doing."""
    report = yield
    if report.when == "call" and report.failed:
        folders = [paths.state_dir()]
        made = getattr(item, "funcargs", {}).get("arena")
        if isinstance(made, Arena):
            folders.append(made.folder)
        report.sections += evidence.collect(folders, os.getpid())
    return report

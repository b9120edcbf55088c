"""A sandbox of each kind for the attackers of this floor, whose guest they own. Others use it after them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from kata import paths
from tests.helpers import evidence
from tests.helpers.arena import Arena
from tests.helpers.reliability import record

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
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


class Tally:
    """What became of the attempts of a run, by module."""

    def __init__(self) -> None:
        self.held: Counter[str] = Counter()
        self.failed: list[str] = []

    def note(self, nodeid: str, outcome: str) -> None:
        """A test has ended. One that was skipped is no attempt."""
        if outcome == "passed":
            self.held[nodeid.partition("::")[0].rpartition("/")[2]] += 1
        elif outcome == "failed":
            self.failed.append(nodeid)


TALLY = Tally()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count attempts."""
    if report.when == "call" or report.failed:
        TALLY.note(report.nodeid, report.outcome)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Put a run of the whole floor on record."""
    modules = {path.name: path.read_text() for path in HERE.glob("test_*.py")}
    if set(TALLY.held) != set(modules) or session.config.option.keyword:
        return
    rows: list[tuple[str, int]] = []
    for name, text in sorted(modules.items()):
        title = text.partition('"""')[2].partition("\n")[0].removesuffix('"""').rstrip(".")
        rows.append((f"{name}: {title}", TALLY.held[name]))
    rows.append(("attempts in all", sum(TALLY.held.values())))
    record("attacks", rows, failures=TALLY.failed)

"""After each fault nothing is left and nothing is wrong; what became of the faults of a run goes on record."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from kata import paths
from tests.helpers import evidence
from tests.helpers.cli import kata, leftovers, ps
from tests.helpers.faults import await_nothing_left, doctor
from tests.helpers.reliability import record

HERE = Path(__file__).parent
Tell = Callable[[str, str], None]
"""Called with a fault and what became of it."""


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Tell:
    """Puts a fault that was survived on record."""
    return lambda fault, outcome: record_property("fault", (fault, outcome))


@pytest.fixture(autouse=True)
def _clean(busybox: str) -> Iterator[None]:
    """The state that a fault is to leave."""
    assert leftovers() == []
    yield
    said = doctor()
    for sandbox in ps("-a"):
        kata("rm", "-f", sandbox["id"])
    assert await_nothing_left() == []
    assert said == ""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attach the logs and what our processes were doing, before any fixture cleans up."""
    report = yield
    if report.when == "call" and report.failed:
        folders = [paths.state_dir()]
        tmp_path = getattr(item, "funcargs", {}).get("tmp_path")
        if isinstance(tmp_path, Path):
            folders.append(tmp_path)
        report.sections += evidence.collect(folders, os.getpid())
    return report


class Tally:
    """What became of the faults of a run."""

    def __init__(self) -> None:
        self.modules: set[str] = set()
        self.rows: list[tuple[str, str]] = []
        self.failed: list[str] = []

    def note(self, report: pytest.TestReport) -> None:
        """A part of a test has ended."""
        if report.failed:
            self.failed.append(report.nodeid)
        elif report.when == "call" and report.passed:
            self.modules.add(report.nodeid.partition("::")[0].rpartition("/")[2])
            self.rows += [value for name, value in report.user_properties if name == "fault"]  # type: ignore[misc]


TALLY = Tally()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count faults."""
    TALLY.note(report)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Put a run of the whole floor on record."""
    if TALLY.modules == {path.name for path in HERE.glob("test_*.py")} and not session.config.option.keyword:
        record("faults", TALLY.rows, failures=TALLY.failed)

"""A failed test of a real guest leaves evidence: logs, consoles, and what our processes were doing."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import pytest

from kata import paths
from tests.helpers import evidence


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attach the evidence before any fixture cleans up; pytest prints it with the failure."""
    report = yield
    if report.when == "call" and report.failed:
        folders = [paths.state_dir()]
        tmp_path = getattr(item, "funcargs", {}).get("tmp_path")
        if isinstance(tmp_path, Path):
            folders.append(tmp_path)
        report.sections += evidence.collect(folders, os.getpid())
    return report

"""Disks that are full, have no inodes left, or may only be read, at each place that writes"""

from __future__ import annotations

from pathlib import Path

import pytest

from kata import paths
from tests.faults.conftest import Tell
from tests.helpers.faults import data_folder, faulty, run, runtime_log, small

pytestmark = [pytest.mark.vm, pytest.mark.root]


def test_no_room_for_a_template(tmp_path: Path, tell: Tell) -> None:
    """`kata template create` says so before it boots."""
    data = data_folder(tmp_path / "data", "images", "cache")
    with small(data / "templates", "size=100m,mode=700"):
        done = run("template", "create", env={"KATA_DATA_DIR": str(data)})
        assert list((data / "templates").iterdir()) == []
    assert (done.code, done.layer) == (1, "host")
    assert done.what == f"there is no room for a template in {data}/templates: 256 MiB are needed"
    assert done.hint == "make room, or set template_path to a folder that has some"
    tell("no room for a template", done.outcome)

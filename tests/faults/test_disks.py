"""Disks that are full, have no inodes left, or may only be read, at each place that writes"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kata import paths
from tests.faults.conftest import Tell
from tests.helpers.cli import TIMEOUT, start
from tests.helpers.faults import await_true, data_folder, faulty, fill, room, run, runtime_log, small

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


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ("size=4k", "the disk is full"),
        ("size=200k,nr_inodes=20", "the disk is full"),
        ("size=1m,ro", "the file system is read-only"),
    ],
)
def test_no_room_for_a_sandboxs_state(options: str, what: str, tell: Tell) -> None:
    """Where records, sockets and logs are: the start fails, and whatever was begun is undone."""
    with small(paths.state_dir(), options):
        done = run("run", "--rm", "busybox", "true")
        if "ro" not in options:
            assert not list(paths.state_dir().glob("sbs/[!.]*"))
    assert (done.code, done.layer) == (125, "host")
    assert done.what.startswith(f"{what} ({paths.state_dir()}/"), done
    assert done.hint
    tell(f"state directory: {options}", done.outcome)


def test_a_data_directory_that_may_only_be_read(tmp_path: Path, tell: Tell) -> None:
    place = data_folder(tmp_path / "data", "images", "cache", "templates")
    script = f"mount --bind {place} {place} && mount -o remount,bind,ro {place}"
    done = faulty("template", "create", script=script, env={"KATA_DATA_DIR": str(place)})
    assert done.code == 0 or (done.layer == "host" and done.hint), done
    tell("data directory is read-only", done.outcome)


def test_no_room_for_a_template_at_a_start(tmp_path: Path, tell: Tell) -> None:
    """The sandbox boots instead, and its log says why."""
    data = data_folder(tmp_path / "data", "images", "cache")
    with small(data / "templates", "size=100m,mode=700"):
        done = run("run", "-d", "busybox", "sleep", "1000", env={"KATA_DATA_DIR": str(data)})
        assert done.code == 0, done
        assert "no template: there is no room for a template" in runtime_log()
        assert run("exec", done.out.strip(), "echo", "here").out == "here\n"
        assert run("rm", "-f", done.out.strip()).code == 0
    tell("no room for a template at a start", "boots, and the log says why")


def test_a_disk_that_fills_up_while_a_template_is_saved(tmp_path: Path, tell: Tell) -> None:
    """Its room is set aside before its machine is booted, so that it is whole, or not there; the sandbox starts."""
    data = data_folder(tmp_path / "data", "images", "cache")
    with small(data / "templates", "size=600m,mode=700") as folder:
        (folder / "other").mkdir()
        with start("run", "--rm", "busybox", "echo", "here", env={**os.environ, "KATA_DATA_DIR": str(data)}) as process:
            before = room(folder)
            assert await_true(lambda: room(folder) < before - (8 << 20))
            fill(folder / "other")
            out, err = process.communicate(timeout=TIMEOUT)
        assert (out, process.returncode) == (b"here\n", 0), err.decode()
        assert run("template", "ls", env={"KATA_DATA_DIR": str(data)}).code == 0
        again = run("run", "--rm", "busybox", "echo", "again", env={"KATA_DATA_DIR": str(data)})
        assert again.out == "again\n", again
        assert not [path for path in folder.glob("*.*") if path.suffix != ".lock"], "nothing is half made"
    tell("disk fills up while a template is saved", "starts; nothing half made is left")


def test_no_room_for_an_image(tmp_path: Path, tell: Tell) -> None:
    """Unpacked, it needs more than there is."""
    with small(tmp_path / "data", "size=700k"):
        place = data_folder(tmp_path / "data", "cache", "templates")
        done = run("setup", env={"KATA_DATA_DIR": str(place)})
        assert (done.code, done.layer) == (1, "host"), done
        assert "full" in done.what and done.hint
        assert not list((place / "images/work").glob("[!.]*"))
    tell("no room for an image", done.outcome)

"""Disks that stand for emptyDirs: an empty ext4 like the folder, sparse, made once, found again by who clears up."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from pathlib import Path

import pytest

from kata.storage import emptydirs
from kata.storage.errors import VolumeError

MIB = 1 << 20


@pytest.fixture
def vm(tmp_path: Path) -> Path:
    (tmp_path / "vm").mkdir()
    return tmp_path / "vm"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch").chmod(0o2777)
    return tmp_path / "scratch"


def debugfs(image: Path, order: str) -> str:
    return subprocess.run(["debugfs", "-R", order, str(image)], check=True, capture_output=True, text=True).stdout


def test_an_image_is_an_empty_file_system_like_its_folder(vm: Path, folder: Path) -> None:
    emptydirs.make_image(vm, str(folder))
    image, room = folder / "disk.img", os.statvfs(folder)
    info = image.stat()
    assert stat.S_IMODE(info.st_mode) == 0o600
    assert info.st_size == min(emptydirs.LARGEST, room.f_blocks * room.f_frsize)
    assert info.st_blocks * 512 < max(64 * MIB, info.st_size // 500), "it is sparse"
    subprocess.run(["e2fsck", "-fn", str(image)], check=True, capture_output=True)
    root = debugfs(image, "stat /")
    assert "Mode:  02777" in root and re.search(r"User: +0 +Group: +0 ", root)
    assert "lost+found" not in debugfs(image, "ls -p /")


def test_it_is_made_once_and_removed_with_its_sandbox(vm: Path, folder: Path, tmp_path: Path) -> None:
    (folder / "disk.img").write_text("of a sandbox before")
    (other := tmp_path / "other").mkdir()
    for one in (folder, other, folder):
        emptydirs.make_image(vm, str(one))
        os.utime(folder / "disk.img", (1, 1))
    assert (folder / "disk.img").stat().st_mtime == 1, "what was written to it stays"
    (other / "disk.img").unlink()
    other.rmdir()
    emptydirs.remove_images(vm)
    emptydirs.remove_images(vm)
    assert list(folder.iterdir()) == list(vm.iterdir()) == []


def test_a_note_removes_nothing_but_an_image(vm: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    (tmp_path / "disk.img").mkdir()
    (vm / emptydirs.NOTES).mkdir()
    for number, target in enumerate(("precious", "disk.img")):
        (vm / emptydirs.NOTES / str(number)).symlink_to(tmp_path / target)
    emptydirs.remove_images(vm)
    assert (tmp_path / "precious").exists() and (tmp_path / "disk.img").is_dir()
    assert not (vm / emptydirs.NOTES).exists()


def test_what_cannot_be_made_leaves_nothing(vm: Path, tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match="no disk can be made"):
        emptydirs.make_image(vm, str(tmp_path / "missing"))
    emptydirs.remove_images(vm)
    assert list(vm.iterdir()) == []

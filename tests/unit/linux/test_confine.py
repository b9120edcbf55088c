"""Paths cannot leave a ConfinedDir."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kata.linux.confine import ConfinedDir, split


def read(confined: ConfinedDir, path: str) -> bytes:
    fd = confined.open(path, os.O_RDONLY)
    try:
        return os.read(fd, 100)
    finally:
        os.close(fd)


def test_links_are_resolved_inside(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/name").write_bytes(b"inside")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/name").write_bytes(b"outside")
    (root / "absolute").symlink_to("/etc/name")
    (root / "climbing").symlink_to("../../../../etc/name")
    with ConfinedDir(str(root)) as confined:
        for path in ("etc/name", "/etc/name", "absolute", "climbing", "../etc/name"):
            assert read(confined, path) == b"inside"
        (root / "magic").symlink_to("/proc/self/root")
        with pytest.raises(OSError):
            confined.open("magic/etc/name", os.O_RDONLY)


def test_make_dirs_sets_the_mode_whatever_the_umask(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(mode=0o700)
    old = os.umask(0o077)
    try:
        with ConfinedDir(str(tmp_path)) as confined:
            os.close(confined.make_dirs("a/b/c", 0o751))
    finally:
        os.umask(old)
    assert [(tmp_path / path).stat().st_mode & 0o777 for path in ("a", "a/b", "a/b/c")] == [0o700, 0o751, 0o751]


def test_descriptors_are_given_back(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with ConfinedDir(str(tmp_path)) as confined:
        os.close(confined.make_dirs("x/y", 0o755))
        (tmp_path / "x/file").write_text("")
        with pytest.raises(OSError):
            confined.make_dirs("x/file/z", 0o755)
        with pytest.raises(FileNotFoundError):
            confined.open("missing", os.O_RDONLY)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(("path", "names"), [("", []), ("/", []), ("a//b/./c/", ["a", "b", "c"]), ("...", ["..."])])
def test_split(path: str, names: list[str]) -> None:
    assert split(path) == names


@pytest.mark.parametrize("path", ["..", "a/../b", "a\0b", "n" * 256, "\u00e9" * 128])
def test_split_refuses(path: str) -> None:
    with pytest.raises(ValueError, match="usable"):
        split(path)

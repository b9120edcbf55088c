"""Reading mount tables, and removing trees without leaving them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kata.linux.mounts import MountPoint, is_mounted, mount_points, parse_mountinfo, remove_tree

TABLE = r"""22 1 0:21 / / rw,relatime shared:1 - ext4 /dev/root rw
30 22 0:5 / /with\040blank\134and\011tab rw master:2 propagate_from:1 - tmpfs none rw,size=1k
"""


def test_parse() -> None:
    assert parse_mountinfo(TABLE) == [
        MountPoint("/", "ext4", "0:21"),
        MountPoint("/with blank\\and\ttab", "tmpfs", "0:5"),
    ]


def test_an_escaped_backslash_does_not_make_another_escape() -> None:
    assert parse_mountinfo(r"1 1 0:1 / /a\134040b rw - tmpfs x rw")[0].target == "/a\\040b"


def test_this_system() -> None:
    assert "/" in [point.target for point in mount_points()]
    assert is_mounted("/proc")
    assert not is_mounted("/proc/self")


def test_remove_tree_follows_no_link(tmp_path: Path) -> None:
    keep = tmp_path / "keep"
    keep.mkdir()
    (keep / "file").write_text("x")
    tree = tmp_path / "tree"
    (tree / "a/b").mkdir(parents=True)
    (tree / "a/b/file").write_text("x")
    (tree / "a/link").symlink_to(keep)
    os.mkfifo(tree / "fifo")
    remove_tree(str(tree))
    assert not tree.exists()
    assert (keep / "file").exists()
    remove_tree(str(tree))
    (tmp_path / "link").symlink_to(keep)
    with pytest.raises(OSError):
        remove_tree(str(tmp_path / "link"))
    assert (keep / "file").exists()

"""A guest's tree: merged /usr, links that stay inside, packages that cannot leave it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kata.osbuilder import tree
from kata.osbuilder.errors import UserlandError
from tests.unit.kernel.crafted import package


@pytest.mark.parametrize(
    ("name", "merged"),
    [
        ("./lib/x86_64-linux-gnu/libc.so.6", "usr/lib/x86_64-linux-gnu/libc.so.6"),
        ("./bin/busybox", "usr/bin/busybox"),
        ("/lib64/ld-linux-x86-64.so.2", "usr/lib64/ld-linux-x86-64.so.2"),
        ("./usr/bin/python3.11", "usr/bin/python3.11"),
        ("etc/passwd", "etc/passwd"),
        ("./", ""),
        ("library/x", "library/x"),
    ],
)
def test_paths_are_merged(name: str, merged: str) -> None:
    assert tree.merge(name) == merged


@pytest.mark.parametrize("name", ["../x", "usr/../../x", "/.."])
def test_a_path_that_leaves_the_tree_is_refused(name: str) -> None:
    with pytest.raises(UserlandError, match="leaves"):
        tree.merge(name)


def test_a_package_is_unpacked_merged_and_without_documents(tmp_path: Path) -> None:
    deb = package(
        tmp_path,
        "thing",
        {
            "lib/x86_64-linux-gnu/libx.so.1": b"\x7fELF library",
            "lib/x86_64-linux-gnu/libx.so": "libx.so.1",
            "usr/share/doc/thing/copyright": b"words",
            "usr/bin/x": b"\x7fELF program",
        },
    )
    root = tmp_path / "root"
    found = tree.unpack(deb, root)
    assert sorted(found) == ["usr/bin/x", "usr/lib/x86_64-linux-gnu/libx.so", "usr/lib/x86_64-linux-gnu/libx.so.1"]
    assert (root / "usr/lib/x86_64-linux-gnu/libx.so").read_bytes() == b"\x7fELF library"
    assert not (root / "usr/share/doc/thing/copyright").exists()
    assert not (root / "lib").exists()
    assert os.access(root / "usr/bin/x", os.X_OK)


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    (tmp_path / "usr/lib").mkdir(parents=True)
    (tmp_path / "usr/lib/real.so.1").write_bytes(b"x")
    (tmp_path / "lib").symlink_to("usr/lib")
    (tmp_path / "usr/lib/one.so").symlink_to("real.so.1")
    (tmp_path / "usr/lib/two.so").symlink_to("/lib/one.so")
    (tmp_path / "usr/lib/up.so").symlink_to("../../../../../usr/lib/real.so.1")
    (tmp_path / "usr/lib/outside.so").symlink_to("/etc/hostname")
    (tmp_path / "usr/lib/loop").symlink_to("loop")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "links"),
    [
        ("usr/lib/real.so.1", ()),
        ("/lib/real.so.1", ()),
        ("usr/lib/one.so", ("usr/lib/one.so",)),
        ("usr/lib/two.so", ("usr/lib/two.so", "usr/lib/one.so")),
        ("usr/lib/up.so", ("usr/lib/up.so",)),
    ],
)
def test_links_are_followed_inside(linked: Path, path: str, links: tuple[str, ...]) -> None:
    assert tree.resolve(linked, path) == ("usr/lib/real.so.1", links)


@pytest.mark.parametrize("path", ["usr/lib/outside.so", "usr/lib/loop", "usr/lib/absent.so"])
def test_links_to_nowhere_are_told(linked: Path, path: str) -> None:
    with pytest.raises(UserlandError):
        tree.resolve(linked, path)


def test_links_are_copied_as_links(linked: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    target = tmp_path_factory.mktemp("target")
    tree.copy(linked, target, {"usr/lib/one.so", "usr/lib/real.so.1"})
    assert os.readlink(target / "usr/lib/one.so") == "real.so.1"
    assert (target / "usr/lib/one.so").read_bytes() == b"x"

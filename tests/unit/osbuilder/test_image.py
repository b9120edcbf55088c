"""Trees become files: the same tree, the same bytes, whoever wrote it in whatever order."""

from __future__ import annotations

import os
import random
import re
import subprocess
from pathlib import Path

import pytest

from kata.osbuilder import image, skeleton
from kata.osbuilder.stage import settle

CONTENT = {f"usr/lib/file{number}": (f"{number} " * 3000).encode() for number in range(30)}


def grown(root: Path, seed: int, umask: int) -> Path:
    """The same tree, made in an order and under a umask of its own."""
    old = os.umask(umask)
    try:
        skeleton.lay_out(root, ("usr/sbin/init",))
        names = list(CONTENT)
        random.Random(seed).shuffle(names)
        for name in names:
            (root / name).write_bytes(CONTENT[name])
            os.utime(root / name, (seed, seed))
    finally:
        os.umask(old)
    settle(root)
    return root


@pytest.fixture
def twins(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("first", "elsewhere/second"):
        (tmp_path / name).mkdir(parents=True)
    return grown(tmp_path / "first", 1, 0o022), grown(tmp_path / "elsewhere/second", 2, 0o077)


def test_the_digest_is_that_of_the_content(twins: tuple[Path, Path]) -> None:
    one, two = twins
    assert image.digest_of(one) == image.digest_of(two)
    assert image.list_files(one) == image.list_files(two)
    (two / "usr/lib/file3").write_bytes(b"changed")
    assert image.digest_of(one) != image.digest_of(two)


@pytest.mark.parametrize("write", [image.write_image, image.write_initrd])
def test_the_same_tree_gives_the_same_bytes(twins: tuple[Path, Path], tmp_path: Path, write: object) -> None:
    assert callable(write)
    made = []
    for number, tree in enumerate(twins):
        write(tree, tmp_path / f"made{number}")
        made.append((tmp_path / f"made{number}").read_bytes())
    assert made[0] == made[1]


def test_the_image_passes_its_own_checker(twins: tuple[Path, Path], tmp_path: Path) -> None:
    image.write_image(twins[0], tmp_path / "image")
    subprocess.run(["fsck.erofs", str(tmp_path / "image")], check=True, capture_output=True, timeout=60)
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run(
        ["fsck.erofs", f"--extract={out}", "--overwrite", "--no-preserve", str(tmp_path / "image")],
        check=True,
        capture_output=True,
        timeout=60,
    )
    assert image.list_files(out) == image.list_files(twins[0])


def dump(path: Path, *options: str) -> str:
    said = subprocess.run(["dump.erofs", *options, str(path)], check=True, capture_output=True, timeout=60)
    return said.stdout.decode()


def test_files_belong_to_root(twins: tuple[Path, Path], tmp_path: Path) -> None:
    image.write_image(twins[0], tmp_path / "image")
    shown = dump(tmp_path / "image", "--path=/usr/sbin/init")
    assert re.search(r"Uid: 0 +Gid: 0 +Access: 0755", shown), shown


def test_the_uuid_is_that_of_the_content(twins: tuple[Path, Path], tmp_path: Path) -> None:
    identities = []
    for tree in (*twins, twins[0]):
        image.write_image(tree, tmp_path / "image")
        identities += re.findall(r"UUID: +(\S+)", dump(tmp_path / "image", "-s"))
        (twins[0] / "usr/lib/file1").write_bytes(b"other" if len(identities) == 2 else CONTENT["usr/lib/file1"])
    assert identities[0] == identities[1] != identities[2]


def test_the_skeleton_has_what_a_guest_mounts_on(tmp_path: Path) -> None:
    root = grown(tmp_path, 1, 0o022)
    for name in ("dev", "proc", "sys", "run", "tmp"):
        assert (root / name).is_dir()
    assert (root / "tmp").stat().st_mode & 0o7777 == 0o1777
    assert os.readlink(root / "var/run") == "/run"
    assert (root / "sbin/init").read_text().startswith("#!/usr/bin/python3.11 -IS\n")
    assert os.access(root / "sbin/init", os.X_OK)
    compile((root / "sbin/init").read_text(), "init", "exec")

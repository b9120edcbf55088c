"""CopyFile stays in its folder whatever is planted there."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
import time
from pathlib import Path

import pytest

from kata.agent.copyfile import Piece, copy_file
from kata.agent.errors import BadRequest

FILE = stat.S_IFREG | 0o640


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "shared"
    folder.mkdir()
    return folder


def send(root: Path, name: str, data: bytes = b"data", *, mode: int = FILE, offset: int = 0, size: int = -1) -> None:
    total = len(data) if size < 0 else size
    copy_file(Piece(f"{root}/{name}", total, mode, 0o750, os.getuid(), os.getgid(), offset, data), str(root))


def test_a_file_in_pieces_appears_when_it_is_whole(root: Path) -> None:
    send(root, "a/b/file", b"hello ", size=11)
    assert not (root / "a/b/file").exists()
    send(root, "a/b/file", b"world", offset=6, size=11)
    assert (root / "a/b/file").read_bytes() == b"hello world"
    assert (root / "a/b/file").stat().st_mode == FILE
    assert (root / "a").stat().st_mode & 0o7777 == 0o750
    assert [path.name for path in (root / "a/b").iterdir()] == ["file"]


def test_a_file_is_replaced_and_a_half_sent_one_starts_anew(root: Path) -> None:
    send(root, "file", b"old")
    send(root, "file", b"xx", size=100)
    send(root, "file", b"new")
    assert (root / "file").read_bytes() == b"new"


def test_directories_links_and_empty_files(root: Path) -> None:
    send(root, "dir", b"", mode=stat.S_IFDIR | 0o711)
    send(root, "dir", b"", mode=stat.S_IFDIR | 0o700)
    assert (root / "dir").stat().st_mode == stat.S_IFDIR | 0o700
    send(root, "link", b"dir/x", mode=stat.S_IFLNK | 0o777)
    send(root, "link", b"dir/y", mode=stat.S_IFLNK | 0o777)
    assert os.readlink(root / "link") == "dir/y"
    send(root, "empty", b"")
    assert (root / "empty").read_bytes() == b""


@pytest.mark.parametrize(
    ("path", "mode"),
    [
        ("/etc/passwd", FILE),
        ("{root}", FILE),
        ("{root}/", FILE),
        ("{root}/../outside", FILE),
        ("{root}x/file", FILE),
        ("{root}/a/../b", FILE),
        ("{root}/" + "n" * 256, FILE),
        ("{root}/device", stat.S_IFCHR | 0o600),
        ("{root}/fifo", stat.S_IFIFO | 0o600),
    ],
)
def test_bad_requests(root: Path, path: str, mode: int) -> None:
    piece = Piece(path.format(root=root), 1, mode, 0o755, 0, 0, 0, b"x")
    with pytest.raises(BadRequest):
        copy_file(piece, str(root))
    assert not (root.parent / "outside").exists()


@pytest.mark.parametrize(("offset", "size"), [(-1, 4), (0, 3), (5, 8)])
def test_offsets_that_do_not_fit(root: Path, offset: int, size: int) -> None:
    with pytest.raises(BadRequest):
        send(root, "file", b"data", offset=offset, size=size)


@pytest.mark.parametrize("target", ["{outside}", "../outside", "/proc/self/root{outside}"])
def test_a_link_to_outside_leads_nowhere(root: Path, target: str) -> None:
    outside = root.parent / "outside"
    outside.mkdir()
    (root / "evil").symlink_to(target.format(outside=outside))
    try:
        send(root, "evil/file")
    except OSError:
        pass
    assert list(outside.iterdir()) == []


def test_links_at_the_file_and_at_its_temporary_name_are_replaced_not_followed(root: Path) -> None:
    victim = root.parent / "victim"
    victim.write_bytes(b"precious")
    (root / "file").symlink_to(victim)
    (root / "file.tmp").symlink_to(victim)
    send(root, "file", b"mine")
    assert victim.read_bytes() == b"precious"
    assert not (root / "file").is_symlink()
    (root / "late.tmp").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic"):
        send(root, "late", b"mine", offset=4, size=8)
    (root / "hard.tmp").hardlink_to(victim)
    send(root, "hard", b"mine")
    assert victim.read_bytes() == b"precious"


def test_a_directory_replaces_a_file_and_a_link(root: Path) -> None:
    victim = root.parent / "victim"
    victim.mkdir(mode=0o700)
    (root / "file").touch()
    (root / "link").symlink_to(victim)
    for name in ("file", "link"):
        send(root, name, b"", mode=stat.S_IFDIR | 0o711)
        assert (root / name).lstat().st_mode == stat.S_IFDIR | 0o711
    assert victim.stat().st_mode & 0o777 == 0o700


def test_a_directory_that_is_swapped_for_a_link_meanwhile_leads_nowhere(root: Path) -> None:
    outside = root.parent / "outside"
    outside.mkdir()
    (root / "a/b").mkdir(parents=True)
    stop = threading.Event()
    swaps = 0

    def swap() -> None:
        nonlocal swaps
        while not stop.is_set():
            with contextlib.suppress(OSError):  # CopyFile has made a directory there meanwhile, or not yet
                os.rename(root / "a", root / f"spare-{time.monotonic_ns()}")
            with contextlib.suppress(OSError):
                os.symlink(outside, root / "a")
                swaps += 1
            with contextlib.suppress(OSError):
                os.unlink(root / "a")

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for number in range(1500):
            for mode in (FILE, stat.S_IFLNK | 0o777, stat.S_IFDIR | 0o700):
                try:
                    send(root, f"a/b/{mode:o}", b"%d" % number, mode=mode)
                except OSError:
                    pass
    finally:
        stop.set()
        thread.join()
    assert swaps > 100
    assert list(outside.rglob("*")) == []

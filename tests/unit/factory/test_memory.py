"""Memory that is shared and cannot be changed."""

from __future__ import annotations

import fcntl
import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.factory import memory

SIZE = 4 << 20
PAGE = mmap.PAGESIZE


@pytest.fixture
def source(tmp_path: Path) -> int:
    """A file with holes: data at 1 MiB and in its last page."""
    fd = os.open(tmp_path / "memory", os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, SIZE)
    os.pwrite(fd, b"one", 1 << 20)
    os.pwrite(fd, b"end", SIZE - 3)
    return fd


def test_a_sealed_memory_cannot_be_changed_and_can_be_mapped_privately(source: int) -> None:
    fd = memory.load("abc", source)
    again = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)  # as QEMU does
    for attempt in (
        lambda: os.pwrite(again, b"x", 0),
        lambda: os.ftruncate(again, 0),
        lambda: os.ftruncate(again, SIZE * 2),
        lambda: mmap.mmap(again, PAGE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE),
        lambda: fcntl.fcntl(again, memory.F_ADD_SEALS, 0),
    ):
        with pytest.raises(PermissionError):
            attempt()
    with mmap.mmap(again, SIZE, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as mine:
        mine[1 << 20 : (1 << 20) + 3] = b"two"
        assert mine[SIZE - 3 :] == b"end"
    assert os.pread(fd, 3, 1 << 20) == b"one"


def test_holes_are_not_copied(source: int) -> None:
    fd = memory.load("abc", source)
    assert os.pread(fd, SIZE, 0) == os.pread(source, SIZE, 0)
    assert os.fstat(fd).st_blocks * 512 <= 4 * PAGE


@given(st.lists(st.sampled_from([b"\0", b"x"]), max_size=600), st.integers(0, 4095))
def test_zeros_become_holes_and_nothing_else_changes(pages: list[bytes], tail: int) -> None:
    data = b"".join(page * 4096 for page in pages) + b"y" * tail
    fd = memory.create("test", len(data))
    try:
        os.pwrite(fd, data, 0)
        assert memory.drop_zeros(fd) == 4096 * pages.count(b"\0")
        assert os.pread(fd, len(data) + 1, 0) == data
        assert os.fstat(fd).st_blocks * 512 == 4096 * (pages.count(b"x") + bool(tail))
        assert memory.drop_zeros(fd) == 0
    finally:
        os.close(fd)


def test_nothing_but_holes(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "memory", os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, SIZE)
    assert memory.copy(fd, memory.create("abc", SIZE)) == 0


def test_it_is_not_sealed_while_somebody_writes(source: int) -> None:
    fd = memory.create("abc", SIZE)
    with mmap.mmap(fd, PAGE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE), pytest.raises(OSError, match="busy"):
        memory.seal(fd)
    memory.seal(fd)


HOLDER = """
import sys, os
from pathlib import Path
from kata.factory import memory
fd = memory.load("abc", os.open(sys.argv[2], os.O_RDONLY))
memory.register(Path(sys.argv[1]), fd)
print(os.fstat(fd).st_ino, flush=True)
sys.stdin.read()
"""


def test_it_is_borrowed_from_whoever_has_it(source: int, tmp_path: Path) -> None:
    argv = [sys.executable, "-I", "-c", HOLDER, str(tmp_path), str(tmp_path / "memory")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdin is not None
        inode = int(holder.stdout.readline())
        fd = memory.borrow(tmp_path, "abc", SIZE)
        assert os.fstat(fd).st_ino == inode
        assert memory.borrow(tmp_path, "abc", SIZE * 2) == -1  # and forgets the holder: it holds something else
        memory.register(tmp_path, fd)
        holder.stdin.close()
    assert os.pread(fd, 3, SIZE - 3) == b"end"
    assert memory.borrow(tmp_path, "abc", SIZE) >= 0  # from ourselves


def test_a_holder_that_is_somebody_else_by_now_is_forgotten(source: int, tmp_path: Path) -> None:
    holders = tmp_path / memory.HOLDERS
    holders.mkdir()
    fd = memory.create("abc", SIZE)  # not sealed
    other = memory.load("other", source)
    for text in (f"{fd} {os.fstat(fd).st_ino}", f"{other} {os.fstat(other).st_ino}", "9999 1", "what", "../../1 1"):
        (holders / str(os.getpid())).write_text(text)
        assert memory.borrow(tmp_path, "abc", SIZE) == -1
        assert list(holders.iterdir()) == []
    (holders / "4194304").write_text("3 1")  # above pid_max
    assert memory.borrow(tmp_path, "abc", SIZE) == -1

"""Root file systems of a container manager's snapshots as erofs images: each built once, kept while it is used.

Called by the shim when a guest shares nothing with its host. A snapshot's layers never change once containers are made
of it, so an image is found by what its layers are on the host (`identity`); layers that were made anew have other
inodes or times, and what was built of the old ones is no longer found and goes when space is needed:

    <cache>/snapshots/<key>.erofs       0600; a shared flock says that somebody is about to open it
                      work/             what is being built (see `workspace`)
                      lock, build.lock  for moments, while files come and go; one build at a time

Nothing half built is ever under a final name.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from kata import paths
from kata.images import directory, erofs, workspace
from kata.images.errors import ImageError
from kata.images.lock import locked
from kata.linux.flock import try_lock

LOCK_TIMEOUT = 60.0
BUILD_TIMEOUT = 900.0
LIMIT = 8 << 30
"""Bytes of all images; those not used for the longest time go first."""
FORMAT = 1
"""Part of every key: to be counted up when images are made in another way."""
SUFFIX = ".erofs"
MAGIC, MAGIC_OFFSET = b"\xe2\xe1\xf5\xe0", 1024
"""The erofs super block (fs/erofs/erofs_fs.h), in little endian."""


def identity(layers: Sequence[str]) -> str:
    """The key of what these directories hold together, top one first. Raises OSError."""
    found = []
    for layer in layers:
        info = os.stat(layer)
        found.append([info.st_dev, info.st_ino, info.st_ctime_ns, info.st_mtime_ns])
    return hashlib.sha256(json.dumps([FORMAT, found]).encode()).hexdigest()


class SnapshotCache:
    """The images below one directory; any number of processes and threads may use it at once."""

    def __init__(self, root: Path | None = None, limit: int = LIMIT) -> None:
        self.root = root or paths.cache_dir() / "snapshots"
        self.work = self.root / "work"
        self._limit = limit

    @contextmanager
    def image(self, key: str, tree: str) -> Iterator[str]:
        """The path of the erofs image for `key`, built of `tree` when there is none; it stays for the block's time.

        An empty `key` is for a tree like no other: the image is removed after the block. Raises ImageError.
        """
        self.work.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.root.chmod(0o700)
        if not key:
            with workspace.workspace(self.work) as scratch:
                yield str(self._build(tree, scratch, "once"))
            return
        fd = self._open(key)
        if fd is None:
            with locked(self.root / "build.lock", timeout=BUILD_TIMEOUT):
                fd = self._open(key)  # whoever had the lock may have built it
                if fd is None:
                    fd = self._add(key, tree)
        try:
            yield str(self._path(key))
        finally:
            os.close(fd)

    def _path(self, key: str) -> Path:
        return self.root / f"{key}{SUFFIX}"

    def _open(self, key: str) -> int | None:
        """A descriptor that keeps the image from being removed; None without a usable one."""
        with locked(self.root / "lock", timeout=LOCK_TIMEOUT):
            try:
                fd = os.open(self._path(key), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
            if os.pread(fd, len(MAGIC), MAGIC_OFFSET) != MAGIC:
                os.close(fd)  # what a power cut has left of it
                self._path(key).unlink()
                return None
            fcntl.flock(fd, fcntl.LOCK_SH)  # nobody has it exclusively without the lock above
            now = time.time_ns()  # finer than what the kernel would write, which is the same for many
            os.utime(fd, ns=(now, now))
            return fd

    def _add(self, key: str, tree: str) -> int:
        with workspace.workspace(self.work) as scratch:
            made = self._build(tree, scratch, key)
            with made.open("rb") as file:
                os.fsync(file.fileno())
            with locked(self.root / "lock", timeout=LOCK_TIMEOUT):
                made.rename(self._path(key))
        fd = self._open(key)
        if fd is None:
            raise ImageError(f"the image of a snapshot vanished from {self.root}", hint="try again")
        self._make_room()
        return fd

    def _build(self, tree: str, scratch: Path, key: str) -> Path:
        size, _ = directory.measure(Path(tree))
        workspace.require_space(scratch, size, 1, "make an image of a container's root file system")
        target = scratch / f"rootfs{SUFFIX}"
        erofs.build(Path(tree), target, key)
        return target

    def _make_room(self) -> None:
        """Remove the images that nobody is about to open, the longest unused first, down to the limit."""
        with locked(self.root / "lock", timeout=LOCK_TIMEOUT):
            found = sorted(self.root.glob(f"*{SUFFIX}"), key=lambda path: path.stat().st_mtime_ns)
            total = sum(path.stat().st_blocks * 512 for path in found)
            for path in found:
                if total <= self._limit:
                    return
                size = path.stat().st_blocks * 512
                if _remove_unused(path):
                    total -= size


def _remove_unused(path: Path) -> bool:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not try_lock(fd):
            return False
        path.unlink()
        return True
    finally:
        os.close(fd)

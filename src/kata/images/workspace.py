"""Private scratch directories of the store: nothing half-made is ever anywhere else, and nothing stays behind.

A directory is locked as long as its owner lives. Whoever makes the next one removes those whose lock is free, so
that even SIGKILL or a power cut leaves nothing for good. Called by the store only.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from kata.images.errors import ImageError, NoSpaceError
from kata.images.lock import locked
from kata.linux import process
from kata.linux.flock import try_lock
from kata.linux.process import ProcessError

LOCK_TIMEOUT = 60.0
MARGIN = 16 << 20
"""Bytes that must stay free after everything we know of has been written."""
MEMORY = 2 << 30
"""Bytes of memory that a program may take which reads what strangers wrote; for 700 MB of files it takes 40 MB."""

Progress = Callable[[str], None]


def ignore(_: str) -> None:
    """The progress callable for those who do not want to hear."""


@contextmanager
def workspace(root: Path) -> Iterator[Path]:
    """A new empty directory, mode 0700, removed at the end of the block, on SIGTERM and SIGHUP too.

    A full file system within the block becomes NoSpaceError, whoever met it.
    """
    sweep(root)
    with _ending_on_signals():
        path, fd = _create(root)
        try:
            yield path
        except (OSError, ProcessError, ImageError) as error:
            if _says_no_space(error):
                raise _full(path) from error
            raise
        finally:
            remove_tree(path)
            os.close(fd)


def sweep(root: Path) -> None:
    """Remove what dead processes left in `root`."""
    for entry, fd in _stale(root):
        remove_tree(entry)
        os.close(fd)


def abandoned(root: Path) -> list[Path]:
    """What dead processes left in `root`."""
    if not root.is_dir():
        return []
    found = _stale(root)
    for _, fd in found:
        os.close(fd)
    return [entry for entry, _ in found]


def _stale(root: Path) -> list[tuple[Path, int]]:
    """What nobody holds, and the descriptor by which we do now; the caller closes it."""
    stale: list[tuple[Path, int]] = []
    with locked(root / ".lock", timeout=LOCK_TIMEOUT):
        for entry in root.iterdir():
            if entry.name == ".lock":
                continue
            fd = os.open(entry, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            if try_lock(fd):
                stale.append((entry, fd))
            else:
                os.close(fd)
    return stale


def adopt(root: Path, file: Path) -> tuple[Path, int]:
    """Move `file` into `root` as a scratch file that lives until its owner closes the descriptor and unlinks it.

    The lock goes with the open file description, so with every process that the descriptor is passed to.
    """
    with locked(root / ".lock", timeout=LOCK_TIMEOUT):
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        try_lock(fd)
        path = root / f"{_random()}{file.suffix}"
        file.rename(path)
    return path, fd


def remove_tree(path: Path) -> None:
    """Remove a tree whatever is in it. rm(1), because shutil.rmtree fails on a thousand nested directories."""
    process.run(["rm", "-rf", "--one-file-system", "--", str(path)], timeout=600)


def require_space(path: Path, size: int, files: int, purpose: str) -> None:
    """Raise NoSpaceError unless the file system of `path` takes `size` more bytes and `files` more inodes."""
    stat = os.statvfs(path)
    free = stat.f_bavail * stat.f_frsize
    if free < size + MARGIN:
        raise NoSpaceError(
            f"{path} has too little space to {purpose}: {_mib(size + MARGIN)} MiB are needed,"
            f" {_mib(size + MARGIN - free)} MiB are missing",
            hint="remove images (`kata image rm`) or set KATA_DATA_DIR to a larger file system",
        )
    if stat.f_files and stat.f_favail < files:
        raise NoSpaceError(
            f"the file system of {path} has {stat.f_favail} inodes left; to {purpose} takes {files}",
            hint="remove files there or set KATA_DATA_DIR to another file system",
        )


def bounded(argv: Sequence[str], largest_file: int) -> list[str]:
    """The argv of a program that may write no file beyond so many bytes, nor take more than MEMORY (getrlimit(2))."""
    return ["prlimit", f"--fsize={largest_file}", f"--data={MEMORY}", "--", *argv]


def free_bytes(path: Path) -> int:
    """What the file system of `path` can still take, in bytes, less the margin."""
    stat = os.statvfs(path)
    return max(stat.f_bavail * stat.f_frsize - MARGIN, 0)


def _create(root: Path) -> tuple[Path, int]:
    with locked(root / ".lock", timeout=LOCK_TIMEOUT):
        path = root / _random()
        path.mkdir(mode=0o700)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try_lock(fd)
    return path, fd


@contextmanager
def _ending_on_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind the stack (exit code 128 + n) where they would end the process at once."""
    signals = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_DFL]
    if threading.current_thread() is not threading.main_thread():
        signals = []
    for number in signals:
        signal.signal(number, _end)
    try:
        yield
    finally:
        for number in signals:
            signal.signal(number, signal.SIG_DFL)


def _end(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _says_no_space(error: OSError | ProcessError | ImageError) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    text = f"{error.what} {error.detail}".lower()
    return not isinstance(error, NoSpaceError) and ("no space left on device" in text or "disk quota exceeded" in text)


def _full(path: Path) -> NoSpaceError:
    return NoSpaceError(
        f"the file system of {path.parent} is full; what was written has been removed again",
        hint="remove images (`kata image rm`) or set KATA_DATA_DIR to a larger file system",
    )


def _random() -> str:
    return os.urandom(8).hex()


def _mib(size: int) -> int:
    return -(-size >> 20)

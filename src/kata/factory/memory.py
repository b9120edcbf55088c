"""A guest's memory as a file that can be shared and not be changed: a sealed memfd.

QEMU wants to open its memory's file for writing, even where it maps it privately. A guest that has taken over its QEMU
could then write to the memory of every guest to come. A memfd that is sealed against writing (memfd_create(2),
F_SEAL_WRITE) can be opened so, mapped privately, and changed by nobody.

A memfd lives as long as somebody has it open. Every process that holds a sandbox has it, and says so in the template's
folder; the next start takes it from there (/proc/<pid>/fd), and only where nobody has it reads it from disk.
"""

from __future__ import annotations

import fcntl
import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from kata.linux import syscalls

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

F_ADD_SEALS, F_GET_SEALS = 1033, 1034
SEAL_SEAL, SEAL_SHRINK, SEAL_GROW, SEAL_WRITE = 1, 2, 4, 8
ALL_SEALS = SEAL_SEAL | SEAL_SHRINK | SEAL_GROW | SEAL_WRITE
CHUNK = 64 << 20
PIECE = 1 << 20
PAGE = 4096
ZEROS = bytes(PAGE)
HOLDERS = "holders"


def create(name: str, size: int) -> int:
    """An empty memfd of `size` bytes, not sealed yet."""
    fd = os.memfd_create(_full_name(name), os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    return fd


def seal(fd: int) -> None:
    """From now on nobody can change it. Raises OSError (EBUSY) while somebody has it mapped for writing."""
    fcntl.fcntl(fd, F_ADD_SEALS, ALL_SEALS)


def drop_zeros(fd: int) -> int:
    """Make holes of pages that are zero anyway; how many bytes that were. Raises OSError.

    A guest clears more than a third of the pages that it has touched by the time it is saved. Whoever gets a copy of
    its memory would copy and keep them.
    """
    dropped = 0
    for begin, end in list(_filled(fd)):
        for offset in range(begin, end, PIECE):
            for first, length in _zeros(os.pread(fd, min(PIECE, end - offset), offset)):
                mode = syscalls.FALLOC_FL_PUNCH_HOLE | syscalls.FALLOC_FL_KEEP_SIZE
                syscalls.fallocate(fd, mode, offset + first, length)
                dropped += length
    return dropped


def _zeros(data: bytes) -> Iterator[tuple[int, int]]:
    """Runs of pages of zeros: where they are in `data`, and how long."""
    begin = -1
    for offset in range(0, len(data) + PAGE, PAGE):
        zero = data[offset : offset + PAGE] == ZEROS
        if zero and begin < 0:
            begin = offset
        elif not zero and begin >= 0:
            yield begin, offset - begin
            begin = -1


def _filled(fd: int) -> Iterator[tuple[int, int]]:
    """Where a file is no hole, as begins and ends."""
    size, offset = os.fstat(fd).st_size, 0
    while offset < size:
        try:
            begin = os.lseek(fd, offset, os.SEEK_DATA)
        except OSError:
            return  # ENXIO: nothing but a hole up to the end
        offset = os.lseek(fd, begin, os.SEEK_HOLE)
        yield begin, offset


def copy(source: int, target: int) -> int:
    """Copy what is not empty; how many bytes that were. Raises OSError."""
    copied = 0
    for begin, end in _filled(source):
        copied += end - begin
        os.lseek(target, begin, os.SEEK_SET)
        while begin < end:
            sent = os.sendfile(target, source, begin, min(CHUNK, end - begin))
            if not sent:
                raise OSError(5, "the file is shorter than it was")
            begin += sent
    return copied


class Duplicate:
    """A memfd with the same content that can be changed: `fd`, which fills in a thread of its own.

    A machine can start meanwhile; its guest may not. `source` is closed by this, `fd` by `close`. Raises OSError.
    """

    def __init__(self, source: int, size: int) -> None:
        self.fd = create("copy", size)
        self._failure: OSError | None = None
        self._thread = threading.Thread(target=self._fill, args=(source,), name="template-copy", daemon=True)
        try:
            self._thread.start()
        except BaseException:
            os.close(self.fd)
            raise

    def wait(self) -> None:
        """Return once everything is there. Raises OSError."""
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Close the file, once nothing is written to it any more."""
        self._thread.join()
        os.close(self.fd)

    def _fill(self, source: int) -> None:
        try:
            copy(source, self.fd)
        except OSError as error:
            self._failure = error
        finally:
            os.close(source)


def load(name: str, source: int) -> int:
    """A sealed memfd with the content of a file. Raises OSError."""
    fd = create(name, os.fstat(source).st_size)
    try:
        copy(source, fd)
        seal(fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def register(folder: Path, fd: int) -> None:
    """Say that this process has the memory open, until it ends; where it cannot be said, nobody else profits."""
    with suppress(OSError):
        (folder / HOLDERS).mkdir(mode=0o700, exist_ok=True)
        (folder / HOLDERS / str(os.getpid())).write_text(f"{fd} {os.fstat(fd).st_ino}\n")


def holders(folder: Path) -> int:
    """How many processes have the memory open."""
    try:
        return sum(os.path.exists(f"/proc/{pid}") for pid in os.listdir(folder / HOLDERS))
    except FileNotFoundError:
        return 0


def borrow(folder: Path, name: str, size: int) -> int:
    """The memory from a process that has it open; -1 when none has. Forgets those that have it no longer."""
    try:
        found = sorted((folder / HOLDERS).iterdir())
    except OSError:
        return -1
    for holder in found:
        fd = _open(holder, name, size)
        if fd >= 0:
            return fd
        holder.unlink(missing_ok=True)
    return -1


def _open(holder: Path, name: str, size: int) -> int:
    """The descriptor that a holder speaks of. A process id may be another process by now, a number another file."""
    try:
        number, inode = (int(word) for word in holder.read_text().split())
        path = f"/proc/{int(holder.name)}/fd/{number}"
        if not os.readlink(path).startswith(f"/memfd:{_full_name(name)}"):
            return -1
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except (OSError, ValueError):
        return -1
    info = os.fstat(fd)
    if info.st_ino == inode and info.st_size == size and fcntl.fcntl(fd, F_GET_SEALS) == ALL_SEALS:
        return fd
    os.close(fd)
    return -1


def _full_name(name: str) -> str:
    return f"kata-template-{name}"

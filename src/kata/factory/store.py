"""The templates on disk: one folder each, complete or not there. Nothing here starts a machine.

    <root>/<name>/memory         the guest's memory, with holes
    <root>/<name>/state          its devices
    <root>/<name>/template.json  what it is of; its time of change says when it was last used
    <root>/<name>/holders/<pid>  who has the memory open (see `memory`)
    <root>/<name>.lock           flocked: shared while its files are opened, alone while it is made or removed

The root and all in it are for root alone: what is in a template decides what runs in every sandbox.
"""

from __future__ import annotations

import os
import shutil
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from kata import paths
from kata.factory import memory, trust
from kata.factory.errors import FactoryError, NoTemplateError, UnusableError
from kata.factory.identity import Files, current
from kata.hypervisor.machine import Saved
from kata.linux.flock import wait_lock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import ExitStack
    from pathlib import Path

KEPT = 8
"""Templates that stay; making one more removes the one that was not used for longest."""
REMOVE_TIMEOUT = LOAD_TIMEOUT = 10.0
DESCRIPTION, MEMORY, STATE = "template.json", "memory", "state"


class Description(msgspec.Struct, frozen=True):
    """What a template is of. Sizes in bytes, `memory_used` without holes; `seconds` is what making it took."""

    name: str
    created: float
    files: Files
    accelerator: str
    vcpus: int
    memory_mib: int
    nics: int
    memory_used: int
    seconds: float


class Entry(msgspec.Struct, frozen=True):
    """A template as it is listed. `stale`: a file that it was made from is another by now, so nobody will use it."""

    description: Description
    used: float
    stale: bool
    holders: int


class TemplateStore:
    """The templates of one folder. Any number of processes may use it at once."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or paths.templates_dir()

    def open(
        self, name: str, undo: ExitStack, size: int, memory_fd: int = -1, *, exclusive: bool = False
    ) -> Saved | None:
        """The template's files, which `undo` closes; None when there is no such template.

        `size` are the bytes that its memory has to have, `memory_fd` is it where the caller has it already.
        `exclusive`: the memory is a copy that one machine has to itself, and may write to. Raises UnusableError for one
        that is not what it was, or that anybody else may have changed; FactoryError.
        """
        if not self._folder(name).is_dir():
            return None
        with self._locked(name, REMOVE_TIMEOUT, shared=True):
            return self._open(name, undo, size, memory_fd, exclusive=exclusive)

    def has(self, name: str) -> bool:
        """Whether there is such a template."""
        return (self._folder(name) / DESCRIPTION).exists()

    @contextmanager
    def making(self, name: str, timeout: float) -> Iterator[Path]:
        """A folder in which to make the template, for one at a time; `publish` makes it the template.

        Waits at most `timeout` seconds for others, who may have made it meanwhile. Raises FactoryError.
        """
        with self._locked(name, timeout):
            trust.require_own(self.root)
            half = self._folder(name, ".new")
            shutil.rmtree(half, ignore_errors=True)  # of one that was killed
            half.mkdir(mode=0o700)
            try:
                yield half
            finally:
                shutil.rmtree(half, ignore_errors=True)

    def publish(self, half: Path, description: Description, memory_fd: int) -> None:
        """Make what was made the template. `memory_fd` is its memory, in a memfd; the state is in the folder."""
        fd = os.open(half / MEMORY, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, os.fstat(memory_fd).st_size)
            memory.copy(memory_fd, fd)
        finally:
            os.close(fd)
        (half / DESCRIPTION).write_bytes(msgspec.json.encode(description))
        folder = self._folder(description.name)
        shutil.rmtree(folder, ignore_errors=True)
        half.rename(folder)

    def require_room(self, size: int) -> None:
        """Raise FactoryError unless `size` bytes can be written."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        there = os.statvfs(self.root)
        if there.f_bavail * there.f_frsize < size:
            raise FactoryError(
                f"there is no room for a template in {self.root}: {size >> 20} MiB are needed",
                hint="make room, or set template_path to a folder that has some",
            )

    def entries(self) -> list[Entry]:
        """All templates, the last used first."""
        found = [entry for name in self._names() if (entry := self._entry(name)) is not None]
        return sorted(found, key=lambda entry: entry.used, reverse=True)

    def remove(self, name: str) -> None:
        """Remove a template; sandboxes that came from it go on. Raises NoTemplateError, FactoryError."""
        if name not in self._names():
            raise NoTemplateError(f"there is no template {name}", hint="kata template ls shows those that there are")
        with self._locked(name, REMOVE_TIMEOUT):
            folder, gone = self._folder(name), self._folder(name, ".gone")
            shutil.rmtree(gone, ignore_errors=True)
            with suppress(FileNotFoundError):
                folder.rename(gone)  # in one step: nobody is to see half of one
            shutil.rmtree(gone, ignore_errors=True)
            self._lock_path(name).unlink(missing_ok=True)

    def half_made(self) -> list[Path]:
        """Half a template that nobody makes any more, and what a removal that was killed has left."""
        found = []
        for folder in [*self.root.glob("*.new"), *self.root.glob("*.gone")]:
            with suppress(FactoryError), self._locked(folder.stem, 0.0):
                found.append(folder)
        return [folder for folder in found if folder.exists()]

    def sweep(self) -> None:
        """Remove what is half made."""
        for folder in [*self.root.glob("*.new"), *self.root.glob("*.gone")]:
            with suppress(FactoryError), self._locked(folder.stem, 0.0):
                shutil.rmtree(folder, ignore_errors=True)
                if not self.has(folder.stem):
                    self._lock_path(folder.stem).unlink(missing_ok=True)

    def prune(self, keep: int = KEPT, *, spare: str = "") -> list[str]:
        """Remove stale templates, and the longest unused beyond `keep`, but not `spare`; the names of those removed."""
        self.sweep()
        entries = self.entries()
        fresh = [entry for entry in entries if not entry.stale]
        names = [entry.description.name for entry in [*(e for e in entries if e.stale), *fresh[keep:]]]
        removed = []
        for name in names:
            if name != spare:
                with suppress(FactoryError):  # being made or opened at this moment
                    self.remove(name)
                    removed.append(name)
        return removed

    # Section: one template

    def _open(self, name: str, undo: ExitStack, size: int, memory_fd: int, *, exclusive: bool) -> Saved | None:
        try:
            with trust.opened(self._folder(name), (STATE, MEMORY)) as (state, source):
                if os.fstat(source).st_size != size:
                    raise UnusableError(f"the memory of template {name} has another size than such guests have")
                os.utime(self._folder(name) / DESCRIPTION)
                found = self._memory(name, undo, source, memory_fd, exclusive=exclusive)
                state = os.dup(state)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UnusableError(f"the template {name} cannot be opened: {error}") from error
        undo.callback(os.close, state)
        return replace(found, state_fd=state)

    def _memory(self, name: str, undo: ExitStack, source: int, memory_fd: int, *, exclusive: bool) -> Saved:
        """The memory, from the file open as `source` where nobody has it; the state is yet to come."""
        folder, size = self._folder(name), os.fstat(source).st_size
        fd = os.dup(memory_fd) if memory_fd >= 0 else memory.borrow(folder, name, size)
        if exclusive:
            copied = memory.Duplicate(fd if fd >= 0 else os.dup(source), size)
            undo.callback(copied.close)
            return Saved(memory_fd=copied.fd, state_fd=-1, exclusive=True, complete=copied.wait)
        if fd >= 0:
            memory.register(folder, fd)
        else:
            fd = self._load(folder, name, source)
        undo.callback(os.close, fd)
        undo.callback((folder / memory.HOLDERS / str(os.getpid())).unlink, missing_ok=True)
        return Saved(memory_fd=fd, state_fd=-1)

    def _load(self, folder: Path, name: str, source: int) -> int:
        """The memory from disk, for one process at a time: those that come meanwhile borrow it. Registered."""
        wait_lock(source, LOAD_TIMEOUT)  # in vain, it is in memory twice; the lock goes with the descriptor
        fd = memory.borrow(folder, name, os.fstat(source).st_size)
        if fd < 0:
            fd = memory.load(name, source)
        memory.register(folder, fd)
        return fd

    def _entry(self, name: str) -> Entry | None:
        path = self._folder(name) / DESCRIPTION
        try:
            description = msgspec.json.decode(path.read_bytes(), type=Description)
            used = path.stat().st_mtime
        except FileNotFoundError:
            return None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return Entry(Description(name, 0.0, (), "", 0, 0, 0, 0, 0.0), 0.0, True, 0)
        return Entry(
            description, used, current(description.files) != description.files, memory.holders(self._folder(name))
        )

    def _names(self) -> list[str]:
        try:
            return [entry.name for entry in self.root.iterdir() if entry.is_dir() and "." not in entry.name]
        except OSError:
            return []

    def _folder(self, name: str, suffix: str = "") -> Path:
        return self.root / f"{name}{suffix}"

    def _lock_path(self, name: str) -> Path:
        return self._folder(name, ".lock")

    @contextmanager
    def _locked(self, name: str, timeout: float, *, shared: bool = False) -> Iterator[None]:
        deadline = time.monotonic() + timeout
        fd = self._lock(name, deadline, shared=shared)
        try:
            yield
        finally:
            os.close(fd)

    def _lock(self, name: str, deadline: float, *, shared: bool) -> int:
        """The lock file, locked, and still the one with that name: a removal takes it away."""
        path = self._lock_path(name)
        while True:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                if not wait_lock(fd, max(0.0, deadline - time.monotonic()), shared=shared):
                    raise FactoryError(f"the template {name} is being made or removed by another process")
                if os.fstat(fd).st_nlink:
                    return fd
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

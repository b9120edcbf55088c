"""The disks that a sandbox's containers brought with them: each is plugged in once, for as long as anybody uses it.

Called by `provide`. Two containers of a pod may use the same device or image; QEMU refuses to open one twice for
writing, and the guest has one node for it. The lock guards the table and is never held while something is plugged in
or out: whoever comes meanwhile waits for the one that does it.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Protocol

from kata import paths
from kata.hypervisor.errors import NoPlaceError
from kata.hypervisor.machine import Disk, DiskAddress, DiskDriver
from kata.linux.fds import identity
from kata.sandbox.errors import ConfigError, ConflictError, NotFoundError
from kata.sandbox.updates import Plug
from kata.storage import emptydirs

if TYPE_CHECKING:
    from collections.abc import Sequence

BUSY_TIMEOUT = 60.0
"""Seconds to wait for somebody else's plugging or unplugging of the same disk, each of which has a time-out of its
own."""
SERIAL_LENGTH = 20


class Plugger(Protocol):
    """What is needed of a machine."""

    def add_disk(self, disk: Disk) -> DiskAddress:
        """Plug in."""

    def remove_disk(self, serial: str) -> None:
        """Plug out."""

    def resize_disk(self, serial: str, size: int) -> None:
        """Have the guest see a new size."""


class _Entry:
    """A disk, how many use it, and what is to be undone when nobody does. `settled`: nobody is changing it."""

    __slots__ = ("plug", "settled", "undo", "users")

    def __init__(self, plug: Plug) -> None:
        self.plug = plug
        self.users = 1
        self.undo = ExitStack()
        self.settled = threading.Event()


def plug_of(path: str, *, readonly: bool, volume: str = "") -> Plug:
    """The disk that a block device or regular file would be. Raises ConfigError for anything else.

    The serial follows from what the file is, so that two names of one device are one disk.
    """
    try:
        info = os.stat(path)
    except OSError as error:
        raise ConfigError(f"the disk {path} cannot be used: {error.strerror}") from error
    found = identity(info)
    if not found:
        raise ConfigError(f"the disk {path} is neither a block device nor a regular file")
    return Plug(_serial(found), os.path.realpath(path), readonly, volume, identity=found)


def empty_dir_plug(folder: str) -> Plug:
    """The disk of an emptyDir, which need not be there yet. Raises ConfigError."""
    try:
        info = os.stat(folder)
    except OSError as error:
        raise ConfigError(f"the emptyDir {folder} cannot be used: {error.strerror}") from error
    return Plug(
        _serial(f"emptydir {info.st_dev}:{info.st_ino}"), emptydirs.image_path(folder), readonly=False, empty_dir=folder
    )


class Disks:
    """The plugged-in disks of one machine by serial. Thread-safe. `drivers` are tried in order as places run out."""

    def __init__(self, sandbox_id: str, machine: Plugger, drivers: Sequence[DiskDriver]) -> None:
        self._sandbox_id = sandbox_id
        self._directory = paths.vm_dir() / sandbox_id
        self._machine = machine
        self._drivers = drivers
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry] = {}
        self._closed = False
        self._made_images = False

    def acquire(self, plug: Plug) -> None:
        """Have the disk in the guest, once more. Raises ConflictError, VolumeError, HypervisorError."""
        while True:
            with self._lock:
                entry = self._entries.get(plug.serial)
                if entry is None:
                    entry = self._entries[plug.serial] = _Entry(plug)
                    break
                if entry.settled.is_set():
                    _require_compatible(entry.plug, plug)
                    entry.users += 1
                    return
            if not entry.settled.wait(BUSY_TIMEOUT):
                raise ConflictError(f"the disk {plug.path} is being plugged in or out by another call")
        self._plug(entry)

    def release(self, serial: str) -> None:
        """Use it no longer; the last one's takes it out of the guest. Raises HypervisorError when that holds it."""
        with self._lock:
            entry = self._entries.get(serial)
            if entry is None:
                return
            entry.users -= 1
            if entry.users:
                return
            entry.settled.clear()
        try:
            entry.undo.close()
        finally:
            self._drop(entry)

    def volume(self, volume_path: str) -> Plug:
        """The disk that is a direct volume. Raises NotFoundError."""
        with self._lock:
            found = next((entry.plug for entry in self._entries.values() if entry.plug.volume == volume_path), None)
        if found is None:
            raise NotFoundError(f"no container of this sandbox uses a direct volume at {volume_path}")
        return found

    def grow(self, plug: Plug, size: int) -> None:
        """Make a disk at least `size` bytes long. Raises ConfigError for a device that is shorter, HypervisorError.

        A file grows; a block device must have grown already. Nothing is ever made smaller.
        """
        fd = os.open(plug.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            now, is_file = os.lseek(fd, 0, os.SEEK_END), stat.S_ISREG(os.fstat(fd).st_mode)
        finally:
            os.close(fd)
        if now < size and not is_file:
            raise ConfigError(
                f"the device {plug.path} has {now} bytes, and {size} are wanted", hint="enlarge the device first"
            )
        if now < size and plug.readonly:
            raise ConfigError(f"the volume {plug.volume or plug.path} is read-only in this sandbox")
        self._machine.resize_disk(plug.serial, max(now, size))

    def close(self) -> None:
        """The machine is gone, and every disk with it: only what the host remembers is left to undo."""
        with self._lock:
            self._closed = True
            entries, self._entries = list(self._entries.values()), {}
        for entry in entries:
            entry.undo.close()
        if self._made_images:
            emptydirs.remove_images(self._directory)

    def _plug(self, entry: _Entry) -> None:
        try:
            with ExitStack() as undo:
                if entry.plug.empty_dir:
                    self._made_images = True
                    made = emptydirs.make_image(self._directory, entry.plug.empty_dir)
                    entry.plug = entry.plug._replace(identity=made)
                self._mark(entry.plug, undo)
                self._add(entry.plug)
                undo.callback(self._remove, entry.plug.serial)
                entry.undo = undo.pop_all()
        except BaseException:
            self._drop(entry)
            raise
        entry.settled.set()

    def _mark(self, plug: Plug, undo: ExitStack) -> None:
        if plug.volume:
            from kata.storage import directvolumes

            directvolumes.mark(plug.volume, self._sandbox_id)
            undo.callback(directvolumes.unmark, plug.volume, self._sandbox_id)

    def _add(self, plug: Plug) -> None:
        for driver in self._drivers[:-1]:
            try:
                self._machine.add_disk(_disk(plug, driver))
            except NoPlaceError:
                continue
            return
        self._machine.add_disk(_disk(plug, self._drivers[-1]))

    def _remove(self, serial: str) -> None:
        if not self._closed:
            self._machine.remove_disk(serial)

    def _drop(self, entry: _Entry) -> None:
        with self._lock:
            if self._entries.get(entry.plug.serial) is entry:
                del self._entries[entry.plug.serial]
        entry.settled.set()  # who waits finds that it is gone, and begins anew


def _disk(plug: Plug, driver: DiskDriver) -> Disk:
    return Disk(
        plug.path,
        plug.serial,
        readonly=plug.readonly,
        driver=driver,
        bounded=plug.bounded,
        identity=plug.identity,
    )


def _serial(what: str) -> str:
    return hashlib.sha256(what.encode()).hexdigest()[:SERIAL_LENGTH]


def _require_compatible(there: Plug, wanted: Plug) -> None:
    if there.readonly and not wanted.readonly:
        raise ConflictError(
            f"{wanted.path} is in this sandbox read-only already, so it cannot be written to by another container",
            hint="give it to all containers of the pod in the same way",
        )

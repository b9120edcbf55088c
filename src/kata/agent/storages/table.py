"""Which storages are mounted, and for how many containers.

Called by CreateSandbox, CreateContainer, RemoveContainer and DestroySandbox. A mount point that several containers
name is mounted once and unmounted with the last of them. Waiting for a disk and mounting happen under the lock of
that mount point alone, so containers do not wait for each other's. Never mount here: `mounter` does.
"""

from __future__ import annotations

import os
import threading

from kata.agent.storages.block import require_plain
from kata.agent.storages.errors import InvalidStorage, StorageError, UnsupportedStorage
from kata.agent.storages.mounter import Mounted
from kata.agent.storages.ownership import parse_group
from kata.agent.storages.registry import HANDLERS
from kata.agent.storages.watcher import Watcher

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from kata.agent.storages.context import StorageContext
    from kata.protocol.generated import agent_pb2

SANDBOX = ""
"""The container id under which storages of the whole sandbox are kept."""
_REFUSED = {
    "blk-ccw": "it is for s390x",
    "erofs.multi-layer": "give each layer as a disk, and an overlayfs over them",
    "image_guest_pull": "the guest has no confidential data hub to pull images",
}
_REFUSED_OPTIONS = ("X-kata.multi-layer", "X-kata.dmverity", "X-kata.gpt-partitioned", "X-kata.partition-number")
_LOCK_SECONDS = 120.0  # above the longest hotplug time-out in use; mounts themselves do not wait


class _Entry:
    """One mount point. `lock` is held while it is mounted or unmounted; `users` is guarded by the table's."""

    __slots__ = ("identity", "lock", "mounted", "users")

    def __init__(self, identity: tuple[str, str, str]) -> None:
        self.identity = identity
        self.lock = threading.Lock()
        self.mounted: Mounted | None = None
        self.users = 0


class StorageTable:
    """The storages of one sandbox, by mount point."""

    def __init__(self, context: StorageContext) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._watcher = Watcher(context.log)
        self._entries: dict[str, _Entry] = {}
        self._held: dict[str, list[str]] = {}

    def add(self, storages: Iterable[agent_pb2.Storage], container_id: str) -> list[str]:
        """Mount all of them for a container; their mount points, in order.

        A failure undoes what this call did. Raises InvalidStorage, UnsupportedStorage, StorageError, DeviceError.
        """
        messages = list(storages)
        for storage in messages:
            validate(storage)
        done: list[str] = []
        try:
            for storage in messages:
                self._add_one(storage, container_id)
                done.append(_place(storage))
        except BaseException:
            self._undo(done)
            raise
        with self._lock:
            self._held.setdefault(container_id, []).extend(done)
            for storage in messages:
                if storage.shared:  # kept until the sandbox ends, whoever goes before
                    self._entries[_place(storage)].users += 1
                    self._held.setdefault(SANDBOX, []).append(_place(storage))
        return done

    def remount_ephemeral(self, storages: Iterable[agent_pb2.Storage]) -> None:
        """Give tmpfs mounts that are held new options, their size above all; checked first, then done in order.

        Raises InvalidStorage, UnsupportedStorage, StorageError.
        """
        messages = list(storages)
        for storage in messages:
            if storage.driver != "ephemeral" or storage.fstype not in ("", "tmpfs"):
                raise InvalidStorage(f"{storage.mount_point} is no tmpfs ({storage.driver} {storage.fstype})")
            validate(storage)
            with self._lock:
                entry = self._entries.get(_place(storage))
            if entry is None or entry.identity[0] != "ephemeral":
                raise InvalidStorage(f"the sandbox has no ephemeral storage at {storage.mount_point}")
        for storage in messages:
            self._remount_one(storage)

    def _remount_one(self, storage: agent_pb2.Storage) -> None:
        place = _place(storage)
        with self._lock:
            entry = self._entries.get(place)
        if entry is None:
            raise StorageError(f"the storage at {place} was given back meanwhile")
        self._lock_entry(entry, place)
        try:
            if entry.mounted is None:
                raise StorageError(f"nothing is mounted at {place}")
            entry.mounted.remount(HANDLERS["ephemeral"](storage, self._context, SANDBOX))
        finally:
            entry.lock.release()

    def release(self, container_id: str) -> None:
        """Give back what a container held, last first. All of it is tried; raises StorageError after that."""
        with self._lock:
            places = self._held.pop(container_id, [])
        failures = []
        for place in reversed(places):
            try:
                self._drop_one(place)
            except StorageError as error:
                failures.append(error)
        if failures:
            raise failures[0]

    def release_all(self) -> None:
        """Give everything back: containers' storages, then the sandbox's. Raises StorageError when all was tried."""
        with self._lock:
            holders = sorted(self._held, key=lambda holder: holder == SANDBOX)
        failures = []
        for holder in holders:
            try:
                self.release(holder)
            except StorageError as error:
                failures.append(error)
        if failures:
            raise failures[0]

    @property
    def mount_points(self) -> list[str]:
        """What is held now."""
        with self._lock:
            return list(self._entries)

    def _add_one(self, storage: agent_pb2.Storage, container_id: str) -> None:
        place = _place(storage)
        entry = self._join(storage, place)
        try:
            self._lock_entry(entry, place)
            try:
                if entry.mounted is None:
                    request = HANDLERS[storage.driver](storage, self._context, container_id)
                    entry.mounted = Mounted(request._replace(group=parse_group(storage)), self._watcher)
            finally:
                entry.lock.release()
        except BaseException:
            self._leave(entry, place)
            raise

    def _join(self, storage: agent_pb2.Storage, place: str) -> _Entry:
        identity = (storage.driver, storage.source, storage.fstype)
        with self._lock:
            entry = self._entries.get(place)
            if entry is None:
                entry = self._entries[place] = _Entry(identity)
            if entry.identity != identity:
                raise InvalidStorage(f"{place} holds another storage: {entry.identity[0]} {entry.identity[1]}")
            entry.users += 1
            return entry

    def _leave(self, entry: _Entry, place: str) -> bool:
        """One user less; whether it was the last."""
        with self._lock:
            entry.users -= 1
            if not entry.users and entry.mounted is None:
                del self._entries[place]
            return not entry.users

    def _drop_one(self, place: str) -> None:
        entry = self._entries[place]
        self._lock_entry(entry, place)
        try:
            if not self._leave(entry, place):
                return
            mounted, entry.mounted = entry.mounted, None
            try:
                if mounted:
                    mounted.close()
            finally:
                with self._lock:
                    if not entry.users:  # nobody came meanwhile
                        self._entries.pop(place, None)
        finally:
            entry.lock.release()

    def _undo(self, places: list[str]) -> None:
        """Undo half a call; the error that stopped it is the one to tell."""
        for place in reversed(places):
            try:
                self._drop_one(place)
            except StorageError as error:
                if self._context.log:
                    self._context.log.warn("a storage could not be given back", error=error)

    def _lock_entry(self, entry: _Entry, place: str) -> None:
        if not entry.lock.acquire(timeout=_LOCK_SECONDS):
            raise StorageError(f"another container's mount at {place} does not come to an end")


def validate(storage: agent_pb2.Storage) -> None:
    """Raises InvalidStorage or UnsupportedStorage when the message can never work here."""
    if storage.driver in _REFUSED:
        raise UnsupportedStorage(f"storage driver {storage.driver!r} is not supported: {_REFUSED[storage.driver]}")
    for option in storage.options:
        if option.startswith(_REFUSED_OPTIONS):  # mounted without what they ask for, a layer would go unverified
            raise UnsupportedStorage(f"storage option {option.partition('=')[0]!r} is not supported by this agent")
    if storage.driver not in HANDLERS:
        raise InvalidStorage(
            f"Unknown storage driver {storage.driver!r}", hint=f"This agent knows {', '.join(sorted(HANDLERS))}."
        )
    if not storage.mount_point.startswith("/"):
        raise InvalidStorage(f"the mount point {storage.mount_point!r} is no absolute path")
    parse_group(storage)
    require_plain(storage)


def _place(storage: agent_pb2.Storage) -> str:
    return os.path.normpath(storage.mount_point)

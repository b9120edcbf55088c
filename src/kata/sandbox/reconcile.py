"""Clear up after sandboxes whose process is gone, whatever killed it.

Run at the start of every `kata` command that looks at sandboxes, and before every sandbox of a shim; `kata doctor` asks
for the parts one by one. Only what is known to be ours is touched: processes by pid *and* start time, files below the
sandbox's own folders, cgroups by their mark, sockets of shims by their notes.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from kata import paths
from kata.errors import KataError
from kata.factory import leftovers
from kata.hypervisor.identity import release_identities
from kata.hypervisor.processref import ProcessRef, process_ref
from kata.linux import mounts
from kata.sandbox import shimsockets
from kata.sandbox.config import PodNetworkConfig
from kata.sandbox.errors import SandboxError
from kata.sandbox.process import LOST_EXIT_CODE
from kata.sandbox.store import Record, Store
from kata.storage.directvolumes import unmark_all
from kata.storage.emptydirs import remove_images

if TYPE_CHECKING:
    from kata.cgroups.mark import Marked

KILL_TIMEOUT = 5.0
HOLD_PATIENCE = 20.0
"""Seconds for another process that clears up after the same sandbox, or looks whether it lives."""


def reconcile(store: Store) -> list[str]:
    """Bring every dead sandbox into a true state. Returns the ids of those that needed it.

    Cgroups are swept for all stores of this host: they may be all that is left of a sandbox.
    """
    store.sweep()
    leftovers.sweep()
    changed = [sandbox_id for sandbox_id in store.ids() if bury(store, sandbox_id)]
    shimsockets.sweep()
    for entry in dead_cgroups():
        remove_cgroups(entry)
    return changed


def died(store: Store, sandbox_id: str) -> Record | None:
    """The record of a sandbox whose process was killed, and that nobody has cleared up after; None for any other."""
    return _under_lock(store, sandbox_id, lambda record: None)


def bury(store: Store, sandbox_id: str) -> bool:
    """Clear up after the sandbox if its process was killed, and record its end; whether that had to be done."""
    return _under_lock(store, sandbox_id, lambda record: _bury(store, record)) is not None


def remove_leftovers(store: Store, sandbox_id: str) -> None:
    """Remove a sandbox that nobody runs, with every trace. Raises ConflictError when somebody does."""
    lock = store.hold(sandbox_id, HOLD_PATIENCE if store.holder(sandbox_id) is None else 0.0)
    try:
        with contextlib.suppress(SandboxError):
            record = store.read(sandbox_id)
            for reference in record.processes:
                kill(reference)
            _clean_network(record)
            _clear_cgroups(store, record)
        remove_vm_directory(sandbox_id)
        store.remove(sandbox_id)
    finally:
        os.close(lock)


def remove_vm_directory(sandbox_id: str) -> None:
    """Remove the VMM's folder and the images noted there, then its user id and its marks on direct volumes.

    Idempotent.
    """
    directory = paths.vm_dir() / sandbox_id
    remove_images(directory)
    with contextlib.suppress(OSError):
        mounts.unmount_below(os.fspath(directory))  # none of ours is there to see: nothing behind it is to be removed
        mounts.remove_tree(os.fspath(directory))
    release_identities(os.fspath(directory))
    unmark_all(sandbox_id)


def kill(reference: ProcessRef) -> None:
    """SIGKILL this very process and wait until it is gone, at most `KILL_TIMEOUT` seconds."""
    try:
        pidfd = os.pidfd_open(reference.pid)
    except ProcessLookupError:
        return
    try:
        if process_ref(reference.pid) == reference:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            select.select([pidfd], [], [], KILL_TIMEOUT)
    except ProcessLookupError:
        pass
    finally:
        os.close(pidfd)


def _under_lock(store: Store, sandbox_id: str, action: Callable[[Record], None]) -> Record | None:
    """Do that with the record of a sandbox whose process was killed, and return it; None for any other."""
    try:
        lock = store.hold(sandbox_id)
    except (SandboxError, OSError):
        return None
    try:
        record = store.read(sandbox_id)
        if record.status == "stopped":
            return None
        action(record)
        return record
    except SandboxError:
        return None
    finally:
        os.close(lock)


def _bury(store: Store, record: Record) -> None:
    for reference in record.processes:
        kill(reference)
    _clean_network(record)
    _clear_cgroups(store, record)
    remove_vm_directory(record.sandbox.id)
    if record.auto_remove:
        store.remove(record.sandbox.id)
        return
    record.status, record.exit_code, record.processes = "stopped", LOST_EXIT_CODE, []
    record.finished_at = time.time()
    record.error = "the process that held the sandbox was killed"
    with contextlib.suppress(OSError):  # a full disk keeps nobody from looking, nor from removing it
        store.write(record)


def _clear_cgroups(store: Store, record: Record) -> None:
    """After the last process: a cgroup with one in it cannot be removed."""
    if record.sandbox.cgroup is not None:
        from kata.cgroups.sandbox import clear

        clear(record.sandbox.cgroup, os.fspath(store.directory(record.sandbox.id)))


def dead_cgroups() -> list[Marked]:
    """The cgroups of sandboxes, of any state directory, that are dead and have no record: by their marks."""
    from kata.cgroups.sweep import marked

    return [entry for entry in marked() if not _owner_lives(Path(entry.owner))]


def remove_cgroups(entry: Marked) -> bool:
    """Remove the cgroups of a dead sandbox, unless it lives again or a process is in one of them; whether it was so."""
    from kata.cgroups.sweep import remove_empty

    folder = Path(entry.owner)
    if not folder.parent.is_dir():
        return remove_empty(entry)  # its whole state directory is gone
    with Store(folder.parent).unchanged():
        return not _owner_lives(folder) and remove_empty(entry)


def _owner_lives(folder: Path) -> bool:
    return folder.parent.is_dir() and Store(folder.parent).alive(folder.name)


def _clean_network(record: Record) -> None:
    """Give the interfaces of the pod's namespace back, as far as they are still ours."""
    if not isinstance(record.sandbox.network, PodNetworkConfig):
        return
    from kata.network.cleanup import cleanup
    from kata.sandbox.podnetwork import noted_devices

    devices = noted_devices(os.fspath(paths.vm_dir() / record.sandbox.id))
    with contextlib.suppress(KataError):  # the namespace may be gone, or be used by a sandbox that came later
        cleanup(record.sandbox.network.netns, devices)

"""Clear up after sandboxes whose process is gone, whatever killed it.

Run at the start of every `kata` command that looks at sandboxes, and before every sandbox of a shim. Only what is
known to be ours is touched: processes by pid *and* start time, files below the sandbox's own folders, cgroups by
their mark.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import time
from pathlib import Path

from kata import paths
from kata.errors import KataError
from kata.factory import leftovers
from kata.hypervisor.identity import release_identities
from kata.hypervisor.processref import ProcessRef, process_ref
from kata.sandbox.config import PodNetworkConfig
from kata.sandbox.errors import SandboxError
from kata.sandbox.process import LOST_EXIT_CODE
from kata.sandbox.store import Record, Store
from kata.storage.directvolumes import unmark_all
from kata.storage.emptydirs import remove_images

KILL_TIMEOUT = 5.0
HOLD_PATIENCE = 20.0
"""Seconds for another process that clears up after the same sandbox, or looks whether it lives."""


def reconcile(store: Store) -> list[str]:
    """Bring every dead sandbox into a true state. Returns the ids of those that needed it.

    Cgroups are swept for all stores of this host: they may be all that is left of a sandbox.
    """
    store.sweep()
    leftovers.sweep()
    changed = [sandbox_id for sandbox_id in store.ids() if _reconcile_one(store, sandbox_id)]
    _sweep_cgroups()
    return changed


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
    shutil.rmtree(directory, ignore_errors=True)
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


def _reconcile_one(store: Store, sandbox_id: str) -> bool:
    try:
        lock = store.hold(sandbox_id)
    except (SandboxError, OSError):
        return False
    try:
        record = store.read(sandbox_id)
        if record.status == "stopped":
            return False
        _bury(store, record)
        return True
    except SandboxError:
        return False
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
    store.write(record)


def _clear_cgroups(store: Store, record: Record) -> None:
    """After the last process: a cgroup with one in it cannot be removed."""
    if record.sandbox.cgroup is not None:
        from kata.cgroups.sandbox import clear

        clear(record.sandbox.cgroup, os.fspath(store.directory(record.sandbox.id)))


def _sweep_cgroups() -> None:
    """Remove the cgroups of sandboxes that are dead and have no record that could be read: by their marks."""
    from kata.cgroups.sweep import marked, remove_empty

    for entry in marked():
        folder = Path(entry.owner)
        if not folder.parent.is_dir():
            remove_empty(entry)  # its whole state directory is gone
        elif not Store(folder.parent).alive(folder.name):
            with Store(folder.parent).unchanged():
                if not Store(folder.parent).alive(folder.name):
                    remove_empty(entry)


def _clean_network(record: Record) -> None:
    """Give the interfaces of the pod's namespace back, as far as they are still ours."""
    if not isinstance(record.sandbox.network, PodNetworkConfig):
        return
    from kata.network.cleanup import cleanup
    from kata.sandbox.podnetwork import noted_devices

    devices = noted_devices(os.fspath(paths.vm_dir() / record.sandbox.id))
    with contextlib.suppress(KataError):  # the namespace may be gone, or be used by a sandbox that came later
        cleanup(record.sandbox.network.netns, devices)

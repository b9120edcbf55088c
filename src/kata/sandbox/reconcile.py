"""Clear up after sandboxes whose process is gone, whatever killed it.

Run at the start of every `kata` command that looks at sandboxes. Only what is known to be ours is touched:
processes by pid *and* start time, files below the sandbox's own folders.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import time

from kata import paths
from kata.errors import KataError
from kata.hypervisor.identity import release_identities
from kata.sandbox.config import PodNetworkConfig
from kata.sandbox.errors import SandboxError
from kata.sandbox.process import LOST_EXIT_CODE
from kata.sandbox.store import ProcessRef, Record, Store, process_ref
from kata.storage.directvolumes import unmark_all

KILL_TIMEOUT = 5.0


def reconcile(store: Store) -> list[str]:
    """Bring every dead sandbox into a true state. Returns the ids of those that needed it."""
    store.sweep()
    return [sandbox_id for sandbox_id in store.ids() if _reconcile_one(store, sandbox_id)]


def remove_leftovers(store: Store, sandbox_id: str) -> None:
    """Remove a sandbox that nobody runs, with every trace. Raises ConflictError when somebody does."""
    lock = store.hold(sandbox_id)
    try:
        with contextlib.suppress(SandboxError):
            record = store.read(sandbox_id)
            for reference in record.processes:
                kill(reference)
            _clean_network(record)
            _clear_cgroups(record)
        remove_vm_directory(sandbox_id)
        store.remove(sandbox_id)
    finally:
        os.close(lock)


def remove_vm_directory(sandbox_id: str) -> None:
    """Remove the VMM's folder, then the user id that was claimed in its name and its marks on direct volumes.

    Idempotent.
    """
    directory = paths.vm_dir() / sandbox_id
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
    _clear_cgroups(record)
    remove_vm_directory(record.sandbox.id)
    if record.auto_remove:
        store.remove(record.sandbox.id)
        return
    record.status, record.exit_code, record.processes = "stopped", LOST_EXIT_CODE, []
    record.finished_at = time.time()
    record.error = "the process that held the sandbox was killed"
    store.write(record)


def _clear_cgroups(record: Record) -> None:
    """After the last process: a cgroup with one in it cannot be removed."""
    if record.sandbox.cgroup is not None:
        from kata.cgroups.sandbox import clear

        clear(record.sandbox.cgroup, record.sandbox.id)


def _clean_network(record: Record) -> None:
    """Give the interfaces of the pod's namespace back, as far as they are still ours."""
    if not isinstance(record.sandbox.network, PodNetworkConfig):
        return
    from kata.network.cleanup import cleanup
    from kata.sandbox.podnetwork import noted_devices

    devices = noted_devices(os.fspath(paths.vm_dir() / record.sandbox.id))
    with contextlib.suppress(KataError):  # the namespace may be gone, or be used by a sandbox that came later
        cleanup(record.sandbox.network.netns, devices)

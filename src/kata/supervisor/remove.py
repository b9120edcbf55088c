"""Remove a sandbox, alive or dead, whole or damaged."""

from __future__ import annotations

import contextlib
import os
import select
import signal

from kata.errors import KataError
from kata.sandbox.errors import ConflictError, NotFoundError, SandboxError
from kata.sandbox.reconcile import remove_leftovers
from kata.sandbox.store import Store
from kata.supervisor.client import Control, require_own
from kata.supervisor.interrupt import interrupt

END_TIMEOUT = 10.0
"""Seconds that the sandbox's process has to clear up by itself, before it is killed and we do it."""


def remove(store: Store, wanted: str, *, force: bool) -> None:
    """Remove the sandbox. Raises ConflictError for one that runs, unless `force`; NotFoundError likewise."""
    try:
        sandbox_id = _id(store, wanted)
    except NotFoundError:
        if force:
            return
        raise
    if store.alive(sandbox_id):
        _require_own(store, sandbox_id)
        if not force:
            raise ConflictError(f"{wanted} is running", hint=f"kata stop {wanted}, or kata rm -f {wanted}")
        _end(store, sandbox_id)
    with contextlib.suppress(NotFoundError):
        remove_leftovers(store, sandbox_id)


def _require_own(store: Store, sandbox_id: str) -> None:
    try:
        record = store.read(sandbox_id)
    except SandboxError:
        return  # a damaged record says nothing
    require_own(record)


def _id(store: Store, wanted: str) -> str:
    """The sandbox's id; a folder whose record cannot be read is still found by its own name."""
    try:
        return store.find(wanted).sandbox.id
    except NotFoundError:
        if wanted in store.ids():
            return wanted
        raise


def _end(store: Store, sandbox_id: str) -> None:
    """Make the sandbox's process end: the container is killed, then the process if it does not follow."""
    holder = store.holder(sandbox_id)
    if holder is None:
        return
    try:
        pidfd = os.pidfd_open(holder.pid)
    except ProcessLookupError:
        return
    try:
        try:
            with Control(store.directory(sandbox_id)) as control:
                control.stop(signal.SIGKILL, 0.0)
        except KataError:
            interrupt(store, sandbox_id)  # it does not listen: it may be starting still
        if store.holder(sandbox_id) == holder and not select.select([pidfd], [], [], END_TIMEOUT)[0]:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            select.select([pidfd], [], [], END_TIMEOUT)
    except ProcessLookupError:
        pass
    finally:
        os.close(pidfd)

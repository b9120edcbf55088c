"""Sandboxes: those whose process was killed, what has outlived its record, and those that live and do not answer."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from kata import paths
from kata.cgroups.mark import Marked
from kata.ctl.doctor.finding import Finding
from kata.ctl.doctor.processes import name_of, open_files, pids
from kata.errors import KataError
from kata.factory.leftovers import PREFIX
from kata.hypervisor.identity import claims
from kata.hypervisor.processref import ProcessRef, lives
from kata.sandbox import reconcile
from kata.sandbox.errors import ConflictError, NotFoundError, SandboxError
from kata.sandbox.process import LOST_EXIT_CODE
from kata.sandbox.store import Record, Store

ANSWER_TIMEOUT = 5.0


def dead(store: Store) -> Iterator[Finding]:
    """Whose process was killed, and that nobody has cleared up after."""
    for sandbox_id in store.ids():
        record = reconcile.died(store, sandbox_id)
        if record is not None:
            yield Finding(
                "sandbox",
                sandbox_id,
                f"sandbox {_named(record)} is dead: the process that held it was killed",
                partial(_bury, store, record),
                advice="kata doctor --fix clears up after it",
            )


def damaged(store: Store) -> Iterator[Finding]:
    """Whose record cannot be read. Folders that no process of ours has ever held are others'."""
    for sandbox_id in store.ids():
        try:
            store.read(sandbox_id)
            continue
        except NotFoundError:
            found = f"the folder of sandbox {sandbox_id} has no record"
        except SandboxError as error:
            found = error.what
        if store.was_held(sandbox_id) and not store.alive(sandbox_id):
            yield Finding("record", sandbox_id, found, partial(_remove, store, sandbox_id))


def machines(store: Store) -> Iterator[Finding]:
    """Folders of virtual machines without a sandbox, with a user id of ours: others have theirs at the same place.

    Those of templates are `files.templates`'.
    """
    owners = set(claims().values())
    for folder in _folders(paths.vm_dir()):
        if os.fspath(folder) not in owners or folder.name.startswith(PREFIX):
            continue
        if store.directory(folder.name).is_dir() or not folder.is_dir():
            continue  # the sandbox's folder comes first, and goes last
        found = f"{folder} is of a sandbox whose own folder is gone"
        holder = _holder_of_the_removed(store, folder.name)
        if holder:
            found += f", and process {holder} ({name_of(holder)}) still runs it"
            yield Finding("machine", folder.name, found, advice=f"kill {holder} ends it")
        else:
            yield Finding("machine", folder.name, found, partial(_remove_machine, store, folder.name))


def cgroups() -> Iterator[Finding]:
    """Cgroups by their marks, of any state directory."""
    for entry in reconcile.dead_cgroups():
        name = entry.place.sandbox
        yield Finding("cgroup", name, f"the cgroup {name} is a dead sandbox's", partial(_remove_cgroups, entry))


def stuck(store: Store) -> Iterator[Finding]:
    """Those that live and are held up, or do not answer."""
    for record in store.records():
        sandbox_id = record.sandbox.id
        holder = store.holder(sandbox_id)
        if record.status != "running" or holder is None:
            continue
        stopped = [process for process in (holder, *record.processes) if _is_stopped(process)]
        for process in stopped:
            yield Finding(
                "sandbox",
                sandbox_id,
                f"sandbox {_named(record)} stands still: {name_of(process.pid)} (process {process.pid}) is stopped",
                advice=f"kill -CONT {process.pid} lets it go on",
            )
        if not stopped and lives(holder) and not _answers(sandbox_id):
            yield Finding(
                "sandbox",
                sandbox_id,
                f"sandbox {_named(record)} lives, but does not answer at its management socket",
                advice=_how_to_end(record),
            )


def _bury(store: Store, record: Record) -> str:
    if not reconcile.bury(store, record.sandbox.id):
        return "somebody else did"
    if record.auto_remove:
        return "removed it, with its machine"
    return f"removed its machine; it counts as ended, with exit code {LOST_EXIT_CODE}"


def _remove(store: Store, sandbox_id: str) -> str:
    try:
        reconcile.remove_leftovers(store, sandbox_id)
    except NotFoundError:
        return "somebody else did"
    return "removed it, with its machine"


def _remove_cgroups(entry: Marked) -> str:
    if not reconcile.remove_cgroups(entry):
        raise KataError(f"a process is in {entry.place.sandbox} or {entry.place.overhead}")
    return "removed it"


def _remove_machine(store: Store, sandbox_id: str) -> str:
    """Give back what is noted in the folder, then remove it. No sandbox of that id is born meanwhile."""
    from kata.network.cleanup import cleanup
    from kata.sandbox.podnetwork import noted_devices

    with store.unchanged():
        if store.directory(sandbox_id).is_dir():
            return "it has a sandbox now"
        folder = paths.vm_dir() / sandbox_id
        cleanup("", noted_devices(os.fspath(folder)))
        reconcile.remove_vm_directory(sandbox_id)
        if folder.is_dir():
            raise KataError(f"{folder} cannot be removed", hint="look at what is in it")
    return "removed it"


def _holder_of_the_removed(store: Store, sandbox_id: str) -> int:
    """The process that still has the lock of a folder open which somebody has removed; 0 when there is none."""
    lock = os.fspath(store.directory(sandbox_id) / "lock")
    for pid in pids():
        if any(path.removesuffix(" (deleted)") == lock for path, _ in open_files(pid)):
            return pid
    return 0


def _is_stopped(process: ProcessRef) -> bool:
    try:
        state = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state in ("T", "t") and lives(process)


def _answers(sandbox_id: str) -> bool:
    from kata.management import client
    from kata.management.errors import RefusedError, UnreachableError

    if not paths.monitor_socket(sandbox_id).exists():
        return True  # it starts or ends at this moment, or does without
    try:
        client.request(sandbox_id, "GET", "/agent-url", timeout=ANSWER_TIMEOUT)
    except RefusedError:
        return True
    except UnreachableError:
        return not Store().alive(sandbox_id)
    return True


def _how_to_end(record: Record) -> str:
    from kata.supervisor.client import require_own

    try:
        require_own(record)
    except ConflictError as error:
        return error.hint
    return f"kata rm -f {record.name} ends it"


def _named(record: Record) -> str:
    short = record.sandbox.id[:12]
    return short if record.name in (short, record.sandbox.id) else f"{short} ({record.name})"


def _folders(place: Path) -> list[Path]:
    try:
        return sorted(path for path in place.iterdir() if path.is_dir() and not path.is_symlink())
    except FileNotFoundError:
        return []

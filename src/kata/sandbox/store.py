"""What is known of every sandbox, on disk: `<state>/sbs/<id>/persist.json` and a lock that tells the living.

Whoever runs a sandbox holds an exclusive flock on its folder's `lock` file for as long as it lives. So a record
is never believed by itself: a sandbox said to run whose lock is free has lost its process, whatever killed it,
and `kata.sandbox.reconcile` clears up after it. Process ids are only ever used together with their start time.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import msgspec

from kata import paths
from kata.hypervisor.processref import ProcessRef, process_ref
from kata.linux.flock import try_lock, wait_lock
from kata.sandbox.config import ContainerConfig, SandboxConfig
from kata.sandbox.errors import ConflictError, ExistsError, NotFoundError, SandboxError

UNBORN, DEAD = ".new-", ".dead-"
"""Prefixes of folders that are not on the list yet, or no more."""

Status = Literal["creating", "running", "stopped"]


class Record(msgspec.Struct, kw_only=True):
    """One sandbox as last written. Times are seconds since the epoch; `exit_code` is None until it ended."""

    version: int = 1
    name: str
    image: str
    command: list[str]
    sandbox: SandboxConfig
    container: ContainerConfig
    manager: str = "kata"
    """Whose sandbox it is: "kata" for the command's own, "containerd" for a shim's."""
    namespace: str = ""
    """The manager's own name for the group of containers that it belongs to."""
    auto_remove: bool = False
    status: Status = "creating"
    created_at: float = 0.0
    started_at: float | None = None
    finished_at: float | None = None
    exit_code: int | None = None
    error: str = ""
    accelerator: str = ""
    processes: list[ProcessRef] = []
    phases: dict[str, float] = {}


class Store:
    """All sandboxes below one state directory. Safe between processes; makes no threads."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or paths.sandboxes_dir()

    def directory(self, sandbox_id: str) -> Path:
        """The folder of one sandbox."""
        return self.root / sandbox_id

    def create(self, record: Record) -> int:
        """Make the folder of a new sandbox and hold its lock: the file descriptor returned is the lock.

        The folder appears with its record in it and its lock held, so that nobody ever sees a dead newcomer.
        Raises ConflictError when the name or id is taken.
        """
        with self.unchanged():
            for other in self.records():
                if record.name in (other.name, other.sandbox.id):
                    raise ExistsError(
                        f"the name {record.name} is taken by sandbox {other.sandbox.id[:12]}",
                        hint=f"choose another --name, or remove that one: kata rm -f {record.name}",
                    )
            self._remove_hidden()
            unborn = self.directory(f"{UNBORN}{record.sandbox.id}")
            with contextlib.ExitStack() as undo:
                unborn.mkdir(mode=0o700)
                undo.callback(_remove_flat, unborn)
                lock = self.hold(unborn.name)
                undo.callback(os.close, lock)
                _write_record(unborn, record)
                unborn.rename(self.directory(record.sandbox.id))
                undo.pop_all()
        return lock

    def write(self, record: Record) -> None:
        """Replace the record as one step: a reader sees the old one or the new one."""
        _write_record(self.directory(record.sandbox.id), record)

    def read(self, sandbox_id: str) -> Record:
        """The record of one sandbox. Raises NotFoundError, or SandboxError when it cannot be read."""
        try:
            data = (self.directory(sandbox_id) / "persist.json").read_bytes()
            return msgspec.json.decode(data, type=Record)
        except (FileNotFoundError, NotADirectoryError):
            raise NotFoundError(f"there is no sandbox {sandbox_id}", hint="kata ps -a lists them") from None
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise SandboxError(
                f"the record of sandbox {sandbox_id} is damaged: {error}",
                hint=f"kata rm -f {sandbox_id} clears it away",
            ) from error

    def ids(self) -> list[str]:
        """Ids of all sandbox folders, also of those with no readable record."""
        try:
            return sorted(entry.name for entry in self.root.iterdir() if entry.is_dir() and entry.name[0] != ".")
        except FileNotFoundError:
            return []

    def records(self) -> list[Record]:
        """All records that can be read, oldest first. A sandbox that vanishes meanwhile is left out."""
        found = []
        for sandbox_id in self.ids():
            with contextlib.suppress(SandboxError):
                found.append(self.read(sandbox_id))
        return sorted(found, key=lambda record: record.created_at)

    def find(self, wanted: str) -> Record:
        """The record with this name, id, or unambiguous beginning of an id (as Docker has it)."""
        records = self.records()
        for record in records:
            if wanted in (record.name, record.sandbox.id):
                return record
        matches = [record for record in records if wanted and record.sandbox.id.startswith(wanted)]
        if len(matches) > 1:
            raise ConflictError(f"more than one sandbox begins with {wanted}", hint="give more of the id")
        if not matches:
            raise NotFoundError(f"there is no sandbox {wanted}", hint="kata ps -a lists them")
        return matches[0]

    def remove(self, sandbox_id: str) -> None:
        """Remove the folder of a sandbox; one that is gone already is fine.

        It leaves the list in one step: whoever looks meanwhile finds all of it or nothing.
        """
        dead = self.directory(f"{DEAD}{sandbox_id}")
        shutil.rmtree(dead, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            self.directory(sandbox_id).rename(dead)
        shutil.rmtree(dead, ignore_errors=True)

    def half_made(self) -> list[Path]:
        """What a process left behind that was killed while it made or removed a sandbox's folder."""
        if not any(self._hidden()):
            return []
        with self.unchanged():
            return list(self._hidden())

    def sweep(self) -> None:
        """Remove what is half made."""
        if any(self._hidden()):
            with self.unchanged():
                self._remove_hidden()

    def hold(self, sandbox_id: str, patience: float = 0.0) -> int:
        """Take the lock of a sandbox, for life: a file descriptor.

        Raises ConflictError when it is held, and still is after `patience` seconds; NotFoundError when there is no
        such sandbox (any more).
        """
        try:
            fd = os.open(self.directory(sandbox_id) / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except (FileNotFoundError, NotADirectoryError):
            raise NotFoundError(f"there is no sandbox {sandbox_id}", hint="kata ps -a lists them") from None
        try:
            if not (wait_lock(fd, patience) if patience else try_lock(fd)):
                raise ConflictError(f"sandbox {sandbox_id[:12]} is in use")
            if not os.fstat(fd).st_nlink:
                raise NotFoundError(f"there is no sandbox {sandbox_id}")  # who held it has removed it
        except BaseException:
            os.close(fd)
            raise
        return fd

    def claim(self, lock: int) -> None:
        """Note in a held lock who holds it, so that `holder` can tell."""
        me = process_ref(os.getpid())
        assert me is not None
        os.pwrite(lock, f"{me.pid} {me.start}\n".encode().ljust(64), 0)

    def holder(self, sandbox_id: str) -> ProcessRef | None:
        """The process that holds this sandbox, or None when there is none any more."""
        try:
            pid, start = map(int, (self.directory(sandbox_id) / "lock").read_text().split())
        except (OSError, ValueError):
            return None
        found = process_ref(pid)
        return found if found == ProcessRef(pid, start) else None

    def was_held(self, sandbox_id: str) -> bool:
        """Whether one of our processes has ever held it: others have folders of sandboxes at the same place."""
        try:
            return (self.directory(sandbox_id) / "lock").stat().st_size > 0
        except OSError:
            return False

    def alive(self, sandbox_id: str) -> bool:
        """Whether some process runs this sandbox now."""
        try:
            os.close(self.hold(sandbox_id))
        except ConflictError:
            return True
        except (NotFoundError, OSError):
            return False
        return False

    def wait_end(self, sandbox_id: str, timeout: float) -> bool:
        """Wait until the process that holds this sandbox is gone, at most `timeout` seconds; whether it is."""
        holder = self.holder(sandbox_id)
        if holder is None:
            return True
        try:
            pidfd = os.pidfd_open(holder.pid)
        except ProcessLookupError:
            return True
        try:
            return process_ref(holder.pid) != holder or bool(select.select([pidfd], [], [], timeout)[0])
        finally:
            os.close(pidfd)

    def _hidden(self) -> Iterator[Path]:
        for name in (UNBORN, DEAD):
            yield from self.root.glob(f"{name}*")

    def _remove_hidden(self) -> None:
        """Under the lock of names: no folder is half made then."""
        for folder in self._hidden():
            shutil.rmtree(folder, ignore_errors=True)

    @contextlib.contextmanager
    def unchanged(self) -> Iterator[None]:
        """No sandbox is born during the block."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(self.root / ".names", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


def _write_record(directory: Path, record: Record) -> None:
    temporary = directory / f"persist.json.{os.getpid()}"
    try:
        temporary.write_bytes(msgspec.json.encode(record))
        temporary.rename(directory / "persist.json")
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, os.fspath(directory / "persist.json")) from None


def _remove_flat(folder: Path) -> None:
    """Remove a folder of files, by one descriptor at a time: there may be no second one left."""
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            os.unlink(folder / name)
        os.rmdir(folder)


def living(pids: Iterable[int]) -> list[ProcessRef]:
    """Those of these processes that live, for a record."""
    return [ref for pid in pids if (ref := process_ref(pid)) is not None]

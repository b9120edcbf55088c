"""Programs of ours whose owner is gone: known by the mark that each was given (`kata.linux.startmark`)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from kata import paths
from kata.ctl.doctor.finding import Finding
from kata.errors import KataError
from kata.hypervisor.processref import ProcessRef, lives, process_ref
from kata.linux.startmark import pid_namespace, started_by
from kata.sandbox.reconcile import kill


class Helper(NamedTuple):
    """A running program of ours, and whether whoever started it lives."""

    process: ProcessRef
    name: str
    owned: bool


def helpers() -> Iterator[Helper]:
    """Programs that processes of this state directory have started. One in another PID namespace says nothing here."""
    state, namespace = paths.state_dir(), pid_namespace()
    for pid in pids():
        owner = started_by(pid)
        process = process_ref(pid)
        if owner and process and owner.namespace == namespace and paths.state_dir_of(owner.state) == state:
            yield Helper(process, name_of(pid), lives(ProcessRef(owner.pid, owner.start)))


def orphans() -> Iterator[Finding]:
    """Those that nobody waits for any more."""
    for helper in helpers():
        if not helper.owned:
            pid = helper.process.pid
            yield Finding(
                "process",
                str(pid),
                f"{helper.name} (process {pid}) goes on, and whoever started it is gone",
                partial(_end, helper.process),
            )


def pids() -> list[int]:
    """Every process of this PID namespace."""
    return sorted(int(name) for name in os.listdir("/proc") if name.isdigit())


def name_of(pid: int) -> str:
    """What a process is called; the number alone once it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return f"process {pid}"


def open_files(pid: int) -> Iterator[tuple[str, int]]:
    """What a process has open: paths, and numbers of devices."""
    try:
        entries = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return
    for entry in entries:
        try:
            path = f"/proc/{pid}/fd/{entry}"
            yield os.readlink(path), os.stat(path).st_rdev
        except OSError:
            continue  # closed meanwhile, or of a file system that does not answer


def _end(process: ProcessRef) -> str:
    kill(process)
    if lives(process):
        raise KataError(f"process {process.pid} does not end: it waits for the kernel", hint="look at dmesg")
    return "killed it"

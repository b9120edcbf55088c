"""All on this host that belongs to a sandbox which does not live, found without the product's own ways of finding it.

Looked at while other sandboxes live, and while other tests may run on the same machine: everything is found by the
state and data directories of this test, or by what a process of it was told.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from kata import paths
from kata.cgroups.sweep import marked
from kata.kernel.asset import WORKSPACE
from tests.helpers.cli import command_lines, is_daemon, is_ours
from tests.helpers.zygotes import zygotes
from tests.kernel.netns import run


def strays(living: Collection[str]) -> Iterator[str]:
    """What is left of sandboxes but those with the ids `living`."""
    yield from _processes(living)
    yield from _records(living)
    yield from _machines(living)
    yield from _sockets()
    yield from _half_made()
    yield from _mounts_and_loops()
    root = os.fspath(paths.sandboxes_dir())
    for entry in marked():
        folder, name = os.path.split(entry.owner)
        if folder == root and name not in living:
            yield f"cgroup {entry.place.sandbox} of {name}"


def dead_zygotes() -> Iterator[str]:
    """Files of zygotes that are dead; they go with `kata doctor`, or when another one comes."""
    folder = paths.state_dir() / "zygote"
    held = {os.readlink(f"/proc/{pid}/fd/3") for pid in zygotes(folder)}
    for path in folder.glob("*"):
        if os.fspath(path).removesuffix(".lock") + ".lock" not in held:
            yield f"zygote's {path}"


def links_of_ours(netns: str) -> list[str]:
    """Taps and the like of ours in a network namespace, as iproute2 sees it."""
    said = run("nsenter", f"--net={netns}", "ip", "-j", "link", check=False)
    return [f"{link['ifname']} in {netns}" for link in json.loads(said or "[]") if "_kata" in link["ifname"]]


def _processes(living: Collection[str]) -> Iterator[str]:
    seen: list[str] = []
    served: set[str] = set()
    for pid, line in command_lines():
        if is_ours(pid, line):
            name = _sandbox_of(line)
            if name not in living or (not is_daemon(line) and name in seen):
                yield f"process {pid} of {name}: {line[:60]}"
            served |= {name} if is_daemon(line) else set()
            seen += [] if is_daemon(line) else [name]
        elif _has_lost_its_parent(pid):
            yield f"process {pid} goes on alone: {line[:60]}"
    for name in living:
        record = read_record(name)
        if name not in seen and record["status"] == "running":
            yield f"no process runs {name}, which is said to live"
        if name not in served and record["status"] == "running" and record["sandbox"]["share"]:
            yield f"no process serves the files of {name}, which is said to live"


def read_record(name: str) -> dict[str, Any]:
    """What is on disk of a sandbox. Its status is `damaged` when that cannot be read."""
    try:
        found: dict[str, Any] = json.loads((paths.sandboxes_dir() / name / "persist.json").read_text())
    except (OSError, ValueError):
        return {"status": "damaged"}
    return found


def _sandbox_of(line: str) -> str:
    """QEMU is told a name, file daemons of the folder."""
    if "sandbox-" in line and not is_daemon(line):
        return line.partition("sandbox-")[2].partition(",")[0]
    return line.partition(f"{paths.vm_dir()}/")[2].partition("/")[0]


def _has_lost_its_parent(pid: int) -> bool:
    """A program that a process of this state directory has started, and that init has taken over."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return False
    state = os.fsencode(paths.state_dir())
    mark = [entry for entry in environment if entry.startswith(b"KATA_STARTED_BY=")]
    return parent == 1 and bool(mark) and mark[0].endswith(b" " + state)


def _records(living: Collection[str]) -> Iterator[str]:
    for folder in paths.sandboxes_dir().glob("[!.]*"):
        status = read_record(folder.name)["status"]
        if folder.name not in living and status != "stopped":
            yield f"record {folder.name}, {status}"


def _machines(living: Collection[str]) -> Iterator[str]:
    for folder in paths.vm_dir().glob("*"):
        if folder.name not in living:
            yield f"folder {folder}"
    for claim in (paths.state_dir() / "uids").glob("*"):
        owner = claim.read_text()
        if os.path.basename(owner) not in living:
            yield f"user id {claim.name} of {owner}"


def _sockets() -> Iterator[str]:
    """Notes of shims that nobody holds, and what they speak of."""
    for note in (paths.state_dir() / "shims").glob("*"):
        with note.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield f"note of the socket {file.read()}"


def _half_made() -> Iterator[str]:
    templates = paths.templates_dir()
    places = [*templates.glob("*.new"), *templates.glob("*.gone"), *paths.sandboxes_dir().glob(".[!n]*")]
    places += [*(paths.images_dir() / "work").glob("[!.]*"), *paths.assets_dir().glob(f"{WORKSPACE}*")]
    yield from (f"half-made {path}" for path in places)


def _mounts_and_loops() -> Iterator[str]:
    state, data = os.fspath(paths.state_dir()), os.fspath(paths.data_dir())
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if f" {state}/" in line:
            yield f"mount {line}"
    for file in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            backing = file.read_text().strip()
        except OSError:
            continue
        if backing.startswith((f"{state}/", f"{data}/")):
            yield f"loop device {file.parts[3]}: {backing}"

"""What killed runtimes left in network namespaces: taps, redirects and rate limits of ours, by name and cookie."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial

from kata.ctl.doctor.finding import Finding
from kata.ctl.doctor.processes import open_files, pids
from kata.errors import KataError
from kata.hypervisor.processref import ProcessRef, lives
from kata.linux.startmark import pid_namespace, started_by
from kata.network.cleanup import Remains, cleanup, remains
from kata.sandbox.store import Store


def left(store: Store) -> Iterator[Finding]:
    """Every namespace in which something of ours is, and no sandbox's."""
    busy = _busy(store)
    for number, path in sorted(namespaces().items(), key=lambda item: item[1]):
        found = Remains() if number in busy else _unused(path)
        if found.found:
            yield Finding(
                "network",
                path,
                f"the network namespace {path} has {_list(found.found)}, and no sandbox",
                partial(_clean, path),
            )


def namespaces() -> dict[int, str]:
    """A path to every network namespace of this host that has one, by its number; our own is not among them."""
    found: dict[int, str] = {}
    for path in (*_mounted(), *(f"/proc/{pid}/ns/net" for pid in pids())):
        try:
            found.setdefault(os.stat(path).st_ino, path)
        except OSError:
            continue  # it ended meanwhile
    found.pop(os.stat("/proc/self/ns/net").st_ino, None)
    return found


def _mounted() -> list[str]:
    """Namespaces that have a name: files of the file system nsfs, mounted somewhere."""
    from kata.linux.mounts import mount_points

    return [point.target for point in mount_points() if point.fstype == "nsfs"]


def _busy(store: Store) -> set[int]:
    """Numbers of namespaces that living sandboxes are in, those of other state directories too."""
    places = [record.sandbox.netns for record in store.records() if store.alive(record.sandbox.id)]
    here = pid_namespace()
    for pid in pids():
        owner = started_by(pid)
        if owner is not None and (owner.namespace != here or lives(ProcessRef(owner.pid, owner.start))):
            places.append(f"/proc/{pid}/ns/net")
    found = set()
    for place in filter(None, places):
        try:
            found.add(os.stat(place).st_ino)
        except OSError:
            continue
    return found


def _unused(path: str) -> Remains:
    """What is ours there and in nobody's use. A namespace that cannot be entered has nothing for us."""
    try:
        found = remains(path)
    except KataError:
        return Remains()
    return Remains() if found.in_use or (found.devices and _is_open(found.devices)) else found


def _is_open(devices: tuple[int, ...]) -> bool:
    return any(device in devices for pid in pids() for _, device in open_files(pid))


def _clean(path: str) -> str:
    before = _unused(path)
    if not before.found:
        return "somebody else did"
    cleanup(path)
    after = remains(path)
    if after.found:
        raise KataError(f"{_list(after.found)} cannot be removed")
    return "removed them" if len(before.found) > 1 else "removed it"


def _list(words: tuple[str, ...]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"

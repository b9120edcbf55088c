"""The host cgroups of one sandbox, from before its first process to after its last. The door of this room.

`enter` moves the calling process in, so all that it starts is in from its first page of memory on. `settle` then
takes apart what belongs apart, `leave` goes back to where the process came from and removes everything.
Rules: shim behaviour, section 8 (host cgroups); what differs is in docs/resources.md.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterable, Sequence

from kata.cgroups.group import Group, Warn
from kata.cgroups.hierarchy import Hierarchy, hierarchies, own_paths, path_in
from kata.cgroups.limits import Limits, Rule, device_rules, majors, writes
from kata.cgroups.mark import mark
from kata.cgroups.path import Placement
from kata.linux.fds import read_text, write_text

EXIT_TIMEOUT = 5.0
"""Seconds for processes that are ending: until they have, their cgroup cannot be removed, nor they be moved."""


class SandboxGroups:
    """The cgroups of a sandbox that this process runs. `warn` hears what the host does not permit; nothing raises.

    `owner` is the folder with the sandbox's record and lock, which says for ever whose cgroups they are.
    """

    def __init__(self, place: Placement, owner: str, warn: Warn, trees: Sequence[Hierarchy] | None = None) -> None:
        self._trees = hierarchies() if trees is None else list(trees)
        self._together = not place.overhead
        text = mark(owner, place)
        self._sandbox = Group(place.sandbox, text, self._trees, warn)
        self._overhead = None if self._together else Group(place.overhead, text, self._trees, warn)
        self._origin: dict[str, str] = {}
        self._set: Limits | None = None

    def enter(self, rules: Iterable[Rule] = ()) -> None:
        """Make them and move this process in. `rules`: devices that the containers may use."""
        self._origin = _own_paths()
        if self._overhead is not None:
            self._overhead.create()  # first, since its mark is how the others are found
        self._sandbox.create()
        self._sandbox.allow([*device_rules(_vfio_majors()), *rules], nothing_else=True)
        for tree in self._trees:
            self._first(tree).within(tree).add(os.getpid())

    def settle(self, vcpus: Iterable[int], others: Iterable[int]) -> None:
        """Once the machine runs, and whenever it got CPUs: threads `vcpus` are the sandbox's, `others` are overhead.

        v2 knows no threads of one process in two places, so there the whole VMM stays in the sandbox's cgroup.
        """
        if self._overhead is None:
            return
        for thread in vcpus:
            self._sandbox.add_thread(thread)
        for tree in self._trees:
            if tree.version == 2:
                for pid in (os.getpid(), *others):
                    self._overhead.within(tree).add(pid)

    def allow(self, rules: Iterable[Rule]) -> None:
        """More devices that containers may use."""
        self._sandbox.allow(rules)

    def limit(self, limits: Limits) -> None:
        """What the guest's CPUs may use. In the pod's own cgroup the engine rules, so nothing is set there."""
        if self._together or limits == self._set:
            return
        self._set = limits
        self._sandbox.write(lambda version: writes(limits, version))

    def leave(self) -> None:
        """Back to where this process came from, with whatever else is left in them; remove them."""
        for tree in self._trees:
            _move(os.getpid(), tree, path_in(tree, self._origin))
        for group in filter(None, (self._sandbox, self._overhead)):
            _empty(group, self._trees, self._origin)
            group.remove()

    def _first(self, tree: Hierarchy) -> Group:
        """Where everything starts. Memory stays where it was first touched, so in v2 the VMM starts in its place."""
        return self._sandbox if self._overhead is None or tree.version == 2 else self._overhead


def clear(place: Placement, owner: str, trees: Sequence[Hierarchy] | None = None) -> None:
    """Remove the cgroups of a sandbox whose processes are gone. What strayed into them is moved out, never killed."""
    found = hierarchies() if trees is None else list(trees)
    for path in place.paths():
        group = Group(path, mark(owner, place), found, lambda _: None)
        _empty(group, found, {})
        group.remove()


def _empty(group: Group, trees: Iterable[Hierarchy], origin: dict[str, str]) -> None:
    """Move out what is in it, and wait for what cannot be moved since it is ending."""
    left = group.strays()
    for tree in trees:
        for pid in left.get(tree.root, ()):
            _move(pid, tree, path_in(tree, origin))
    deadline = time.monotonic() + EXIT_TIMEOUT
    for pid in {pid for pids in group.strays().values() for pid in pids if pid != os.getpid()}:
        _await_exit(pid, deadline)


def _await_exit(pid: int, deadline: float) -> None:
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return
    try:
        select.select([pidfd], [], [], max(0.0, deadline - time.monotonic()))
    finally:
        os.close(pidfd)


def _move(pid: int, tree: Hierarchy, path: str) -> None:
    """Back to `path`, or to the root when that is gone."""
    for folder in (tree.root + path.rstrip("/"), tree.root):
        try:
            write_text(f"{folder}/cgroup.procs", str(pid))
            return
        except ProcessLookupError:
            return
        except OSError:
            continue


def _own_paths() -> dict[str, str]:
    try:
        return own_paths()
    except OSError:
        return {}


def _vfio_majors() -> list[int]:
    try:
        return majors(read_text("/proc/devices"), "vfio")
    except OSError:
        return []

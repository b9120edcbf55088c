"""The host cgroups of one sandbox, from before its first process to after its last. The door of this room.

`enter` moves the calling process in, so all that it starts is in from its first page of memory on. `settle` then
takes apart what belongs apart, `leave` goes back to where the process came from and removes everything.
Where the engine names a scope of systemd's, systemd makes the cgroups; whatever it does not make are folders.
Rules: shim behaviour, section 8 (host cgroups); what differs is in docs/resources.md.
"""

from __future__ import annotations

import os
import posixpath
import select
import time
from collections.abc import Iterable, Sequence

from kata.cgroups.group import Group, Warn
from kata.cgroups.hierarchy import Hierarchy, hierarchies, own_paths, path_in
from kata.cgroups.limits import Limits, Rule, device_rules, majors, writes
from kata.cgroups.mark import mark
from kata.cgroups.path import Placement
from kata.linux.fds import read_text, write_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.cgroups.scope import Scope
    from kata.cgroups.systemd import Host

EXIT_TIMEOUT = 5.0
"""Seconds for processes that are ending: until they have, their cgroup cannot be removed, nor they be moved."""


class SandboxGroups:
    """The cgroups of a sandbox that this process runs. `warn` hears what the host does not permit; nothing raises.

    `owner` is the folder with the sandbox's record and lock, which says for ever whose cgroups they are.
    """

    def __init__(
        self,
        place: Placement,
        owner: str,
        warn: Warn,
        trees: Sequence[Hierarchy] | None = None,
        systemd: Host | None = None,
    ) -> None:
        self._wanted = place
        self._owner = owner
        self._warn = warn
        self._given = trees
        self._host = systemd
        self._together = not place.overhead
        self._scope: Scope | None = None
        self._apart: Scope | None = None
        """The overhead's."""
        self._origin: dict[str, str] = {}
        self._set: Limits | None = None
        self._use(place.folders())

    def enter(self, rules: Iterable[Rule] = ()) -> None:
        """Make them and move this process in. `rules`: devices that the containers may use."""
        self._origin = _own_paths()
        allowed = [*device_rules(_vfio_majors()), *rules]
        if self._wanted.scopes:
            self._start_scope(allowed)
        self._make_overhead()  # first, since its mark is how the others are found
        self._sandbox.create(adopt=self._scope is not None)
        self._sandbox.allow(allowed, nothing_else=True)
        for tree in self._trees:
            self._first(tree).within(tree).add(os.getpid())

    def settle(self, vcpus: Iterable[int], others: Iterable[int]) -> None:
        """Once the machine runs, and whenever it got CPUs: threads `vcpus` are the sandbox's, `others` are overhead.

        v2 knows no threads of one process in two places, so there the whole VMM stays in the sandbox's cgroup. So it
        does for systemd with v1: else systemd would find the sandbox's scope empty, and end it.
        """
        if self._overhead is None:
            return
        processes = [os.getpid(), *others]
        fresh = self._apart is not None and not self._apart.started and self._start_apart(self._apart, processes)
        for tree in self._trees:
            if tree.whole or fresh:  # in v1 systemd moves them to the slice where it has no use for the controller
                for pid in processes:
                    self._overhead.within(tree).add(pid)
        for thread in vcpus:
            self._sandbox.add_thread(thread)

    def allow(self, rules: Iterable[Rule]) -> None:
        """More devices that containers may use."""
        wanted = list(rules)
        if self._scope is not None:
            self._scope.allow(wanted)
        self._sandbox.allow(wanted, again=self._scope is not None)

    def limit(self, limits: Limits) -> None:
        """What the guest's CPUs may use. In the pod's own cgroup the engine rules, so nothing is set there."""
        if self._together or limits == self._set:
            return
        self._set = limits
        if self._scope is not None:
            self._scope.limit(limits)
        self._sandbox.write(lambda version: writes(limits, version))

    def leave(self) -> None:
        """Back to where this process came from, with whatever else is left in them; remove them."""
        for tree in self._trees:
            _move(os.getpid(), tree, path_in(tree, self._origin))
        for group in filter(None, (self._sandbox, self._overhead)):
            _empty(group, self._trees, self._origin)
            group.remove()
        for scope in filter(None, (self._scope, self._apart)):
            if scope.started:
                scope.stop()

    def _use(self, place: Placement) -> None:
        """Decide for scopes or folders; nothing is made."""
        self._trees = hierarchies(naming=place.scopes) if self._given is None else list(self._given)
        text = mark(self._owner, place)
        self._sandbox = Group(place.sandbox, text, self._trees, self._warn)
        self._overhead = None if self._together else Group(place.overhead, text, self._trees, self._warn)

    def _start_scope(self, rules: Iterable[Rule]) -> None:
        from kata.cgroups.scope import Scope  # the engines of most hosts name folders
        from kata.cgroups.systemd import Host

        host = self._host or Host()
        if not host.runs():
            self._warn("the engine names a scope of systemd's, which does not run here: the cgroups are folders")
            return
        trees = hierarchies(naming=True) if self._given is None else self._given
        scope = Scope(self._wanted.sandbox, trees, self._warn, host)
        if scope.start([os.getpid()], f"Kata Containers sandbox {posixpath.basename(self._owner)}", rules):
            self._scope = scope
            self._use(self._wanted)
            if not self._together:
                self._apart = Scope(self._wanted.overhead, trees, self._warn, host)

    def _make_overhead(self) -> None:
        """All of it, or where systemd will make a scope of it, what that may not contain."""
        if self._overhead is not None and self._apart is None:
            self._overhead.create()
        elif self._overhead is not None:
            for tree in self._trees:
                if not tree.whole:
                    self._overhead.within(tree).create()

    def _start_apart(self, scope: Scope, processes: Sequence[int]) -> bool:
        """A scope needs processes, and systemd ends one that has none: so it is made as late as they come."""
        assert self._overhead is not None
        about = f"Kata Containers overhead of {posixpath.basename(self._owner)}"
        if scope.start(processes, about):
            self._overhead.create(adopt=True)
            return True
        self._apart = None  # and systemd is not asked again
        for tree in self._trees:
            if tree.bounds:
                self._overhead.within(tree).create()
        return False

    def _first(self, tree: Hierarchy) -> Group:
        """Where everything starts. Memory stays where it was first touched, so in v2 the VMM starts in its place."""
        return self._sandbox if self._overhead is None or tree.whole else self._overhead


def clear(place: Placement, owner: str, trees: Sequence[Hierarchy] | None = None, systemd: Host | None = None) -> None:
    """Remove the cgroups of a sandbox whose processes are gone. What strayed into them is moved out, never killed."""
    _clear(place.folders(), owner, trees, systemd)
    if place.scopes:
        _clear(place, owner, trees, systemd)


def _clear(place: Placement, owner: str, trees: Sequence[Hierarchy] | None, systemd: Host | None) -> None:
    found = hierarchies(naming=place.scopes) if trees is None else list(trees)
    for path in place.paths():
        group = Group(path, mark(owner, place), found, lambda _: None)
        ours = group.is_marked()  # else the name may be another's by now
        _empty(group, found, {})
        group.remove()
        if ours and place.scopes:
            _stop(path, found, systemd)


def _stop(path: str, trees: Sequence[Hierarchy], systemd: Host | None) -> None:
    from kata.cgroups.scope import Scope
    from kata.cgroups.systemd import Host

    host = systemd or Host()
    if host.runs():
        Scope(path, trees, lambda _: None, host).stop()


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

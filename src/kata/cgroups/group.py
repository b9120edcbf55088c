"""One cgroup by its path, in every tree of the host that has a controller we use. Called by `sandbox` of this room.

What was made carries a mark (an extended attribute), so that only that is ever removed. Nothing raises: what the host
does not permit is told to `warn`, and everything else goes on.
"""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
from collections.abc import Callable, Iterable, Iterator

from kata.cgroups.hierarchy import Hierarchy
from kata.cgroups.limits import Rule, Write
from kata.linux.fds import read_text, write_text

MARK = "trusted.kata"
"""The attribute: a sandbox's own text on its cgroups (see `mark`), `FOLDER` on what had to be made above them."""
FOLDER = b"folder"
MAKE_TRIES = 20

Warn = Callable[[str], None]


class Group:
    """A cgroup of the sandbox whose mark is `mark`."""

    def __init__(self, path: str, mark: str, trees: Iterable[Hierarchy], warn: Warn) -> None:
        self.path = path
        self._mark_text = os.fsencode(mark)
        self._trees = list(trees)
        self._warn = warn
        self._rules: list[Rule] = []
        self._filters: dict[str, int] = {}
        """By folder of a v2 tree, the descriptor of the program there."""

    def within(self, tree: Hierarchy) -> Group:
        """The same cgroup, in one tree alone."""
        return Group(self.path, os.fsdecode(self._mark_text), [tree], self._warn)

    def create(self, *, adopt: bool = False) -> None:
        """Make it in each tree, with what it needs to take processes. `adopt`: where systemd has, it was for us."""
        for tree in self._trees:
            try:
                self._create(tree)
                if adopt:
                    self._mark(self._folder(tree), self._mark_text)
            except OSError as error:
                self._warn(f"no cgroup can be made: {_say(error, self._folder(tree))}")

    def add(self, pid: int) -> None:
        """Move a process with all its threads; one that is gone is fine."""
        for _, folder in self._made_trees():
            self._put(f"{folder}/cgroup.procs", pid)

    def add_thread(self, tid: int) -> None:
        """Move one thread, in the trees of v1; in v2 threads stay with their process (see docs/resources.md)."""
        for tree, folder in self._made_trees():
            if not tree.whole:
                self._put(f"{folder}/tasks", tid)

    def write(self, tree_writes: Callable[[int], Iterable[Write]]) -> None:
        """Set limits; `tree_writes` says what for a version."""
        for tree, folder in self._made_trees():
            for wanted in tree_writes(tree.version):
                if wanted.controller in tree.controllers:
                    self._set(f"{folder}/{wanted.file}", wanted.value)

    def allow(self, rules: Iterable[Rule], *, nothing_else: bool = False, again: bool = False) -> None:
        """Devices that may be used, beside those that were. `nothing_else` forbids all others; first of all, then.

        v1 has a controller for it, v2 a program of ours, which only a cgroup of ours gets. `again`: in v1 somebody
        else may have set what he knows of the earlier ones.
        """
        fresh = [rule for rule in dict.fromkeys(rules) if rule not in self._rules]
        self._rules += fresh
        for tree, folder in self._made_trees():
            if tree.version == 2 and (nothing_else or self._filters) and self._is_ours(folder):
                self._filter(folder)
            if "devices" in tree.controllers and tree.version == 1:
                if nothing_else and self._is_ours(folder):
                    self._set(f"{folder}/devices.deny", "a")
                for rule in self._rules if again else fresh:
                    self._set(f"{folder}/devices.allow", rule.line())

    def strays(self) -> dict[str, list[int]]:
        """What is in it, by tree; where it is another's, nothing that concerns us."""
        found = {}
        for tree, folder in self._made_trees():
            try:
                if self._is_ours(folder):
                    found[tree.root] = [int(pid) for pid in read_text(f"{folder}/cgroup.procs").split()]
            except OSError:
                continue
        return found

    def is_marked(self) -> bool:
        """Whether it is this sandbox's in any tree."""
        return any(self._is_ours(folder) for _, folder in self._made_trees())

    def remove(self) -> None:
        """Remove it, and what was made above it once that is empty. What others made stays; idempotent."""
        while self._filters:
            os.close(self._filters.popitem()[1])
        for tree in self._trees:
            self._remove(tree)

    # Section: one tree

    def _create(self, tree: Hierarchy) -> None:
        for last in range(MAKE_TRIES):
            try:
                self._make_folders(tree)
                return
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENODEV) or last == MAKE_TRIES - 1:
                    raise  # else another sandbox has just removed an empty folder above

    def _make_folders(self, tree: Hierarchy) -> None:
        above = tree.root
        for name in self.path.strip("/").split("/"):
            folder = f"{above}/{name}"
            self._enable(tree, above)
            if self._make(folder):
                self._mark(folder, self._mark_text if folder == self._folder(tree) else FOLDER)
            if tree.version == 1 and "cpuset" in tree.controllers:
                _inherit_cpuset(above, folder)
            above = folder

    def _make(self, folder: str) -> bool:
        try:
            os.mkdir(folder, 0o755)
        except FileExistsError:
            return False
        return True

    def _mark(self, folder: str, value: bytes) -> None:
        try:
            os.setxattr(folder, MARK, value)
        except FileNotFoundError:
            raise  # another sandbox took it for the empty one that it had found marked: it is made again
        except OSError as error:
            self._warn(f"the cgroup cannot be marked, and so will not be removed: {_say(error, folder)}")

    def _enable(self, tree: Hierarchy, folder: str) -> None:
        """v2: a child has the controllers that its parent hands down. Those of the parent's creator are enough."""
        if tree.version == 2:
            try:
                there = set(read_text(f"{folder}/cgroup.subtree_control").split())
                for name in sorted(tree.controllers - there):
                    write_text(f"{folder}/cgroup.subtree_control", f"+{name}")
            except OSError as error:
                self._warn(f"a controller is not handed down: {_say(error, folder)}")

    def _remove(self, tree: Hierarchy) -> None:
        folder = self._folder(tree)
        if not self._is_ours(folder):
            return
        try:
            with contextlib.suppress(FileNotFoundError):  # systemd removes a scope's itself once nobody is in it
                os.rmdir(folder)
        except OSError as error:
            self._warn(f"a cgroup is left behind: {_say(error, folder)}")
            return
        above = posixpath.dirname(folder)
        while above != tree.root and mark_of(above) == FOLDER:
            try:
                os.rmdir(above)
            except OSError:
                return  # in use by others
            above = posixpath.dirname(above)

    def _is_ours(self, folder: str) -> bool:
        return mark_of(folder) == self._mark_text

    def _folder(self, tree: Hierarchy) -> str:
        return f"{tree.root.rstrip('/')}{self.path}"

    def _made_trees(self) -> Iterator[tuple[Hierarchy, str]]:
        for tree in self._trees:
            if os.path.isdir(self._folder(tree)):
                yield tree, self._folder(tree)

    def _filter(self, folder: str) -> None:
        from kata.linux.devicefilter import attach  # hosts of v1 have no use for it

        before = self._filters.get(folder)
        try:
            self._filters[folder] = attach(folder, self._rules, before)
        except OSError as error:
            self._warn(f"devices cannot be restricted: {_say(error, folder)}")
            return
        if before is not None:
            os.close(before)

    def _put(self, file: str, number: int) -> None:
        try:
            write_text(file, str(number))
        except ProcessLookupError:
            pass
        except OSError as error:
            self._warn(f"a process cannot be moved: {_say(error, file)}")

    def _set(self, file: str, value: str) -> None:
        try:
            write_text(file, value)
        except OSError as error:
            if error.errno == errno.EINVAL and file.endswith("/cpu.cfs_quota_us"):
                return  # a cgroup above, the pod's, allows less already, and holds
            self._warn(f"{value!r} cannot be set: {_say(error, file)}")


def _inherit_cpuset(above: str, folder: str) -> None:
    """v1: a new cpuset is empty, and takes no process until it has CPUs and memory nodes."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        if not read_text(f"{folder}/{name}").strip():
            write_text(f"{folder}/{name}", read_text(f"{above}/{name}").strip())


def mark_of(folder: str) -> bytes:
    """The mark of a cgroup; nothing for one that another made."""
    try:
        return os.getxattr(folder, MARK)
    except OSError:
        return b""


def _say(error: OSError, path: str) -> str:
    return f"{error.filename or path}: {error.strerror or error}"

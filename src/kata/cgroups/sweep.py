"""Finds the cgroups of sandboxes on this host, and removes those that nobody is in. Called by `sandbox.reconcile`.

For sandboxes of which nothing else is left: their containerd, shim and VMM were killed at once, and then their state
directory was removed. Who is dead is the caller's to say; a cgroup with a process in it is never touched here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from kata.cgroups.group import Group, mark_of
from kata.cgroups.hierarchy import Hierarchy, hierarchies
from kata.cgroups.mark import Marked, mark, read_mark
from kata.cgroups.path import OVERHEAD, OVERHEAD_SLICE, PREFIX, SCOPE


def marked(trees: Sequence[Hierarchy] | None = None) -> list[Marked]:
    """The sandboxes that have cgroups in the places where they can be found without looking at every cgroup.

    These are the overhead's folder, which names the others, and the first two levels of each tree. What lies deeper
    without an overhead is in the cgroup of an engine's pod, and goes with it.
    """
    found = {}
    for tree in hierarchies() if trees is None else trees:
        for folder in _places(tree.root.rstrip("/")):
            entry = read_mark(mark_of(folder))
            if entry is not None:
                found[entry.owner, entry.place.sandbox] = entry
    return list(found.values())


def remove_empty(entry: Marked, trees: Sequence[Hierarchy] | None = None) -> bool:
    """Remove the cgroups of a dead sandbox, unless a process is in one of them; whether none was.

    systemd is not asked: it ends a scope that nobody is in by itself, callers hold a lock, and whoever wants the name
    again makes room for himself.
    """
    found = hierarchies(naming=entry.place.scopes) if trees is None else list(trees)
    text = mark(entry.owner, entry.place)
    groups = [Group(path, text, found, lambda _: None) for path in entry.place.paths()]
    if any(pids for group in groups for pids in group.strays().values()):
        return False
    for group in groups:
        group.remove()
    return True


def _places(root: str) -> Iterator[str]:
    for name in _folders(root):
        if _may_be(name):
            yield f"{root}/{name}"
        for below in _folders(f"{root}/{name}"):
            if f"/{name}" in (OVERHEAD, OVERHEAD_SLICE) or _may_be(below):
                yield f"{root}/{name}/{below}"


def _may_be(name: str) -> bool:
    return name.startswith(PREFIX) or name.endswith(SCOPE)


def _folders(path: str) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []  # it went meanwhile

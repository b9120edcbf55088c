"""The host's cgroups as tests see them: those of sandboxes, and who is in them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kata.cgroups.hierarchy import hierarchies


def of_sandboxes(*words: str) -> list[Path]:
    """Every cgroup of a sandbox in every tree of this host; with `words`, those whose path has one of them."""
    found = []
    for tree in hierarchies():
        for name in ("kata_*", "*/kata_*", "kata_overhead/*"):
            found += [path for path in Path(tree.root).glob(name) if path.is_dir() and path.name != "kata_overhead"]
    return sorted(path for path in found if not words or any(word in str(path) for word in words))


@contextmanager
def pod_cgroup(path: str) -> Iterator[None]:
    """A cgroup in every tree, as a kubelet makes one for each pod."""
    made = [Path(tree.root + path) for tree in hierarchies()]
    try:
        for folder in made:
            folder.mkdir()
            for name in ("cpuset.cpus", "cpuset.mems"):
                if (folder / name).exists():
                    (folder / name).write_text((folder.parent / name).read_text())
        yield
    finally:
        for folder in made:
            os.rmdir(folder)


def of_controller(controller: str, path: str) -> Path:
    """The folder of a cgroup in the tree that has this controller."""
    tree = next(tree for tree in hierarchies() if controller in tree.controllers)
    return Path(tree.root + path)


def processes(folder: Path) -> list[int]:
    """The processes in a cgroup."""
    return [int(pid) for pid in (folder / "cgroup.procs").read_text().split()]


def threads(folder: Path) -> list[int]:
    """The threads in a cgroup of v1."""
    return [int(pid) for pid in (folder / "tasks").read_text().split()]

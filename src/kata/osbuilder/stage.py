"""Makes the guest's root file system as a folder, from packages, the agent's sources and the recipe.

Called by `image`. Works in two trees: `userland` holds whole packages and sources, `root` what the guest gets.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from kata.kernel.asset import Package
from kata.osbuilder import closure, elf, skeleton, tree
from kata.osbuilder.recipe import (
    AGENT_ROOT,
    DEBUG_SEED,
    PYTHON,
    Recipe,
    agent_sources,
    protobuf_files,
)

UNUSED_BY_PROTOBUF = "libstdc++.so.6"
"""Named as needed by protobuf's library, which uses no symbol of it."""
CRUN = "usr/bin/crun"
UNUSED_BY_CRUN = "libsystemd.so.0"
"""What crun asks systemd for: cgroups of its making, readiness, the journal. A guest has no systemd, and the library
and what it needs in turn are a fifth of the image and more than a third of crun's start."""
PROGRAMS = (PYTHON, CRUN)
DEBUG_NAMES = ("cat", "dmesg", "free", "ip", "ls", "mount", "ps", "sh", "top")


def stage(recipe: Recipe, downloaded: Iterable[tuple[Package, Path]], userland: Path, root: Path) -> None:
    """Fill `root` with everything the guest of `recipe` has. Both folders are empty at the start.

    Raises BuildError, or PackageError for a damaged package.
    """
    skeleton.lay_out(userland, ())
    owned = {package.name: tree.unpack(deb, userland) for package, deb in downloaded}
    (userland / CRUN).write_bytes(elf.drop_need((userland / CRUN).read_bytes(), UNUSED_BY_CRUN))
    _place_agent(recipe, userland)
    wanted = closure.wanted_modules(agent_sources(Path(recipe.source)))
    modules = closure.collect_modules(userland, wanted)
    skeleton.lay_out(root, ("usr/sbin/init", "init") if recipe.kind == "initrd" else ("usr/sbin/init",))
    files = _chosen(recipe, owned, modules, userland)
    tree.copy(userland, root, files)
    _place_compiled(userland, root)
    _place_data(recipe, root)
    if recipe.debug:
        _name_applets(root)


def _place_agent(recipe: Recipe, userland: Path) -> None:
    """The agent's sources and all of protobuf, for `collect` to choose from."""
    base = userland / AGENT_ROOT
    sources = [(f"kata/{name}", path) for name, path in agent_sources(Path(recipe.source))]
    for name, path in (*sources, *protobuf_files()):
        place = base / name
        place.parent.mkdir(parents=True, exist_ok=True)
        data = path.read_bytes()
        place.write_bytes(elf.drop_need(data, UNUSED_BY_PROTOBUF) if elf.is_elf(data) else data)


def _chosen(recipe: Recipe, owned: dict[str, list[str]], modules: list[str], userland: Path) -> set[str]:
    """The files of the guest, links included, compiled code and the skeleton apart."""
    named = owned if recipe.packages else recipe.extra_packages
    whole = {path for name in named for path in owned.get(name, ())}
    links = {path for path in whole if (userland / path).is_symlink()}
    files = {path for path in whole - links if (userland / path).is_file()}
    start = {*PROGRAMS, *files, *(path for path in modules if not path.endswith(".py"))}
    if recipe.debug:
        start |= {path for name in DEBUG_SEED for path in owned[name] if path.endswith("bin/busybox")}
    return closure.libraries(userland, start, files) | links


def _place_compiled(userland: Path, root: Path) -> None:
    compiled = userland / closure.COMPILED
    for path in sorted(compiled.rglob("*.pyc")):
        place = root / path.relative_to(compiled)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)


def _place_data(recipe: Recipe, root: Path) -> None:
    """Files of the agent that are no code (message descriptors)."""
    for name, path in agent_sources(Path(recipe.source)):
        if path.suffix != ".py":
            place = root / AGENT_ROOT / "kata" / name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)


def _name_applets(root: Path) -> None:
    for name in DEBUG_NAMES:
        place = root / "usr/bin" / name
        if not os.path.lexists(place):
            place.symlink_to("busybox")


def settle(root: Path) -> None:
    """Give every file and folder its final mode: nothing depends on the umask of whoever builds."""
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root).as_posix()
        if path.is_symlink():
            continue
        if path.is_dir():
            path.chmod(skeleton.FOLDERS.get(relative, 0o755))
        else:
            path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
    root.chmod(0o755)

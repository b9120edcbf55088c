"""A tree of files in memory-sized steps: unpacking packages into a folder, looking files up as the guest would.

Called by `image`. Debian's packages still name /lib and /sbin; a guest has them below /usr (merged /usr), so
paths are mapped while unpacking. Symbolic links are always followed within the tree, never on the host.
"""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
from pathlib import Path, PurePosixPath

from kata.kernel import packages
from kata.osbuilder.errors import UserlandError

MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
"""Top folders that are links to their namesakes below /usr."""
DOCUMENTS = ("usr/share/doc/", "usr/share/man/", "usr/share/locale/", "usr/share/lintian/", "usr/share/info/")
MAX_LINKS = 40


def merge(name: str) -> str:
    """The path of a package's member in a merged tree, without a leading slash.

    Raises UserlandError for a path that leaves the tree.
    """
    parts = [part for part in PurePosixPath(name).parts if part not in ("/", ".")]
    if ".." in parts:
        raise UserlandError(f"a package holds the path {name}, which leaves its tree")
    if parts and parts[0] in MERGED:
        parts.insert(0, "usr")
    return "/".join(parts)


def unpack(deb: Path, root: Path) -> list[str]:
    """Unpack a package into `root`; returns the paths of what is no folder and no document, in its order."""
    found = []
    with packages.contents(deb) as tar:
        for member in tar:
            path = merge(member.name)
            if not path or path.startswith(DOCUMENTS):
                continue
            if member.isdir():
                (root / path).mkdir(parents=True, exist_ok=True)
                continue
            _write(tar, member, root, path)
            found.append(path)
    return found


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, root: Path, path: str) -> None:
    place = root / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)
    if member.issym():
        place.symlink_to(member.linkname)
    elif member.islnk():
        place.hardlink_to(root / merge(member.linkname))
    elif member.isreg():
        stream = tar.extractfile(member)
        assert stream is not None
        with place.open("wb") as out:
            shutil.copyfileobj(stream, out)
        place.chmod(stat.S_IMODE(member.mode) & 0o755 | 0o444)


def resolve(root: Path, path: str) -> tuple[str, tuple[str, ...]]:
    """Where `path` leads within `root`, and the links on the way (paths without a leading slash).

    Raises UserlandError when it leads nowhere.
    """
    pending = list(reversed(merge(path).split("/")))
    done: list[str] = []
    links: list[str] = []
    while pending:
        part = pending.pop()
        if part in ("", "."):
            continue
        if part == "..":
            done[-1:] = []
            continue
        place = "/".join((*done, part))
        if not (root / place).is_symlink():
            done.append(part)
            continue
        links.append(place)
        if len(links) > MAX_LINKS:
            raise UserlandError(f"/{path} is a loop of links")
        target = os.readlink(root / place)
        if target.startswith("/"):
            done, target = [], merge(target)
        pending += reversed(target.split("/"))
    found = "/".join(done)
    if not (root / found).exists():
        raise UserlandError(f"/{path} is in none of the packages", hint="name the package that has it as an extra")
    return found, tuple(links)


def copy(source: Path, target: Path, paths: set[str]) -> None:
    """Copy files and links, not folders' own modes, from one tree to another."""
    for path in sorted(paths):
        place = target / path
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / path, place, follow_symlinks=False)

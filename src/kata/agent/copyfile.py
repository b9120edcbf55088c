"""CopyFile: files that the host sends in pieces when it shares no file system with the guest.

Confined below `ROOT`, whatever links containers have planted there (CVE-2026-41326): resolved by openat2 and through no
link, since one that stays below `ROOT` still leads to what is another container's, and a policy has seen the path
alone. Written to a temporary name, renamed when complete. Called by `service` only. The protocol has no way to take a
file back; a whiteout (a character device without content, as overlayfs has them) is ours.
"""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from kata.agent.errors import BadRequest
from kata.linux.confine import ConfinedDir, split
from kata.linux.fds import write_all

ROOT = "/run/kata-containers/shared/containers"


class Piece(NamedTuple):
    """One request: `path` is absolute, `mode` has the type bits, `size` is that of the whole file."""

    path: str
    size: int
    mode: int
    dir_mode: int
    uid: int
    gid: int
    offset: int
    data: bytes


def copy_file(piece: Piece, root: str = ROOT) -> None:
    """Write one piece; directories and links are made at once. Raises BadRequest, OSError."""
    names = names_below(piece.path, root)
    os.makedirs(root, mode=0o755, exist_ok=True)
    with ConfinedDir(root, links=False) as confined:
        parent = confined.make_dirs("/".join(names[:-1]), piece.dir_mode & 0o7777 or 0o755)
        try:
            _write(parent, names[-1], piece)
        finally:
            os.close(parent)


def names_below(path: str, root: str) -> list[str]:
    """The path's names below `root`. Raises BadRequest for a path that is not below, or has ".."."""
    if not path.startswith(root + "/"):
        raise BadRequest(f"CopyFile writes below {root} only, not to {path!r}")
    try:
        names = split(path[len(root) :])
    except ValueError as error:
        raise BadRequest(f"CopyFile: {error}") from None
    if not names:
        raise BadRequest(f"CopyFile: {path!r} names no file")
    return names


def _write(parent: int, name: str, piece: Piece) -> None:
    kind = stat.S_IFMT(piece.mode) or stat.S_IFREG
    if kind == stat.S_IFDIR:
        _make_directory(parent, name, piece)
    elif kind == stat.S_IFLNK:
        _make_link(parent, name, piece)
    elif kind == stat.S_IFREG:
        _write_regular(parent, name, piece)
    elif piece.mode == stat.S_IFCHR and not piece.size:
        _remove(parent, name)
    else:
        raise BadRequest(f"CopyFile makes files, directories and links, not type {kind:o}")


def _make_directory(parent: int, name: str, piece: Piece) -> None:
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            _unlink(parent, name)  # whatever was there is replaced, as for files
            os.mkdir(name, 0o700, dir_fd=parent)
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        os.fchown(fd, piece.uid, piece.gid)
        os.fchmod(fd, stat.S_IMODE(piece.mode))
    finally:
        os.close(fd)


def _make_link(parent: int, name: str, piece: Piece) -> None:
    temporary = f"{name}.tmp"
    _unlink(parent, temporary)
    os.symlink(piece.data, os.fsencode(temporary), dir_fd=parent)
    os.chown(temporary, piece.uid, piece.gid, dir_fd=parent, follow_symlinks=False)
    _put(parent, temporary, name)


def _write_regular(parent: int, name: str, piece: Piece) -> None:
    """Pieces come in order; that at 0 starts anew, the one that reaches `size` puts the file in place."""
    if min(piece.offset, piece.size) < 0 or piece.offset + len(piece.data) > piece.size:
        raise BadRequest(f"CopyFile: {len(piece.data)} bytes at {piece.offset} do not fit {piece.size}")
    temporary = f"{name}.tmp"
    flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe put there would wait for a reader
    if piece.offset == 0:
        _unlink(parent, temporary)
        flags |= os.O_CREAT | os.O_EXCL
    fd = os.open(temporary, flags, 0o600, dir_fd=parent)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise BadRequest(f"CopyFile: {temporary!r} is no regular file")
        os.lseek(fd, piece.offset, os.SEEK_SET)
        try:
            write_all(fd, piece.data)
        except OSError:
            _unlink(parent, temporary)  # on a full disk it is the first thing that nobody needs
            raise
        if piece.offset + len(piece.data) < piece.size:
            return
        os.fchown(fd, piece.uid, piece.gid)
        os.fchmod(fd, stat.S_IMODE(piece.mode))
    finally:
        os.close(fd)
    _put(parent, temporary, name)


def _put(parent: int, temporary: str, name: str) -> None:
    os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)


def _remove(parent: int, name: str) -> None:
    """A file, a link, or a directory that is empty."""
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        pass
    except IsADirectoryError:
        os.rmdir(name, dir_fd=parent)


def _unlink(parent: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        pass

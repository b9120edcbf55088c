"""A root filesystem ready for a guest: one erofs file, with what the host must know of its content.

Called by the store, which makes them, and by those who run containers. Never unpack or build here.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import msgspec

from kata.images.config import ImageConfig
from kata.images.errors import MalformedImageError
from kata.linux.confine import ConfinedDir

MAX_TEXT = 1 << 20
"""Bytes of a passwd or group file."""


class VolumeFolder(msgspec.Struct, frozen=True):
    """A VOLUME of an image: its path with links resolved, and what the folder there has for owner and mode."""

    path: str
    uid: int = 0
    gid: int = 0
    mode: int = 0o755


class Content(msgspec.Struct, frozen=True):
    """What the host knows of a tree: /etc/passwd, /etc/group, its volumes. Kept beside a cached root filesystem."""

    passwd: bytes = b""
    group: bytes = b""
    volumes: tuple[VolumeFolder, ...] = ()


class Rootfs:
    """An erofs file, opened for reading. Context manager; owns `fd`, and the file when it is nobody else's.

    `fd` stays good when the image is removed meanwhile; `path` need not. `passwd` and `group` are the texts of the
    image's files, with undecodable bytes as `\\xff`, and empty where it has none.
    """

    def __init__(self, path: Path, fd: int, config: ImageConfig, content: Content, *, temporary: bool = False) -> None:
        self.path = path
        self.fd = fd
        self.config = config
        self.passwd = content.passwd.decode("utf-8", "backslashreplace")
        self.group = content.group.decode("utf-8", "backslashreplace")
        self.volumes = content.volumes
        self._temporary = temporary

    def __enter__(self) -> Rootfs:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the descriptor back and remove a temporary file. Harmless when closed already."""
        if self.fd >= 0:
            if self._temporary:
                self.path.unlink(missing_ok=True)
            os.close(self.fd)
            self.fd = -1


def read_content(tree: Path, volumes: tuple[str, ...] = ()) -> Content:
    """What an unpacked tree has; links in it lead nowhere outside. Raises MalformedImageError."""
    with ConfinedDir(str(tree)) as root:
        found = {folder.path: folder for folder in (_volume(root, path) for path in volumes)}
        return Content(_read(root, "etc/passwd"), _read(root, "etc/group"), tuple(found.values()))


def _volume(root: ConfinedDir, path: str) -> VolumeFolder:
    """The folder that a volume's path leads to; one that is missing is made when the container starts."""
    try:
        place = root.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return VolumeFolder(path)
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            raise MalformedImageError(f"the image's volume {path[:80]} is not a folder") from None
        raise
    try:
        about = os.fstat(place)
        resolved = _path_inside(root, place)
    finally:
        os.close(place)
    if resolved == "/":
        raise MalformedImageError(f"the image's volume {path[:80]} is the root of the container")
    return VolumeFolder(resolved, about.st_uid, about.st_gid, stat.S_IMODE(about.st_mode))


def _path_inside(root: ConfinedDir, place: int) -> str:
    """Where an open folder is, as seen from the confined root (proc(5): /proc/self/fd)."""
    top = root.open_dir(".")
    try:
        path = os.path.relpath(os.readlink(f"/proc/self/fd/{place}"), os.readlink(f"/proc/self/fd/{top}"))
    finally:
        os.close(top)
    return "/" if path == "." else f"/{path}"


def _read(root: ConfinedDir, path: str) -> bytes:
    """A regular file's content, nothing for anything else. Looked at before it is opened: it may be a device."""
    try:
        place = root.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return b""
        raise
    try:
        if not stat.S_ISREG(os.fstat(place).st_mode):
            return b""
        with open(f"/proc/self/fd/{place}", "rb") as file:
            text = file.read(MAX_TEXT + 1)
    finally:
        os.close(place)
    if len(text) > MAX_TEXT:
        raise MalformedImageError(f"the image's /{path} is larger than {MAX_TEXT >> 20} MiB")
    return text

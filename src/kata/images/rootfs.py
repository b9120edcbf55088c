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


class Users(msgspec.Struct, frozen=True):
    """The bytes of /etc/passwd and /etc/group, kept beside a cached root filesystem."""

    passwd: bytes = b""
    group: bytes = b""


class Rootfs:
    """An erofs file, opened for reading. Context manager; owns `fd`, and the file when it is nobody else's.

    `fd` stays good when the image is removed meanwhile; `path` need not. `passwd` and `group` are the texts of the
    image's files, with undecodable bytes as `\\xff`, and empty where it has none.
    """

    def __init__(self, path: Path, fd: int, config: ImageConfig, users: Users, *, temporary: bool = False) -> None:
        self.path = path
        self.fd = fd
        self.config = config
        self.passwd = users.passwd.decode("utf-8", "backslashreplace")
        self.group = users.group.decode("utf-8", "backslashreplace")
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


def read_users(tree: Path) -> Users:
    """The users' files of an unpacked tree; links in it lead nowhere outside. Raises MalformedImageError."""
    with ConfinedDir(str(tree)) as root:
        return Users(_read(root, "etc/passwd"), _read(root, "etc/group"))


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

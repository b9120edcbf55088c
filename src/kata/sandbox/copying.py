"""Sends files of the host into a guest that shares nothing with it, piece by piece by the agent's CopyFile.

Called by `provide`. A directory is walked without following links; links are sent as they are, and what is neither
file, directory nor link is left out. What was sent is remembered: a second `run` sends what has changed since.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, NamedTuple, Protocol

from kata.protocol.generated import agent_pb2
from kata.sandbox.errors import ConfigError
from kata.storage import hostsown

if TYPE_CHECKING:
    from kata.sandbox.updates import Copy

PIECE = 1 << 20
"""Bytes in one message; a frame of the protocol takes four times as many."""
MOST_BYTES, MOST_ENTRIES = 64 << 20, 10_000
"""What one volume may have. The copy is in the guest's memory, and goes when the guest does."""
MOST_LEVELS = 64
PARENT_MODE = 0o755
WHITEOUT = stat.S_IFCHR
"""The type that has our agent remove what is at the path."""


class Receiver(Protocol):
    """What is needed of an agent."""

    def copy_file(self, piece: agent_pb2.CopyFileRequest) -> None:
        """Take one piece."""


class _Entry(NamedTuple):
    """What the guest was sent. `version` differs when the content does."""

    mode: int
    uid: int
    gid: int
    version: tuple[object, ...]


class Copier:
    """Sends one volume, and again what has changed. For one thread."""

    def __init__(self, receiver: Receiver, copy: Copy) -> None:
        self._receiver = receiver
        self._copy = copy
        self._bytes = self._entries = 0
        self._there: dict[str, _Entry] = {}
        self._found: set[str] = set()

    def run(self) -> None:
        """Have the guest have what the host has. After an error the next run takes up where this one ended.

        Raises ConfigError for what is too large or cannot be read, VolumeError for what no guest gets, and what the
        receiver raises.
        """
        self._bytes = self._entries = 0
        self._found.clear()
        self._send_all()
        self._remove([path for path in self._there if path not in self._found])

    def _send_all(self) -> None:
        try:
            # Here a link is followed, as by a bind mount; below it none is.
            fd = os.open(self._copy.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                hostsown.refuse(fd, self._copy.path)
                self._send(fd, self._copy.target, 0)
            finally:
                os.close(fd)
        except OSError as error:
            raise ConfigError(f"{self._copy.path} cannot be copied into the guest: {error}") from error

    def _send(self, fd: int, target: str, level: int) -> None:
        info = os.fstat(fd)
        if stat.S_ISDIR(info.st_mode):
            self._count(0)
            if self._is_news(target, info):
                self._piece(target, info)
                self._note(target, info)
            self._send_entries(fd, target, level + 1)
        elif stat.S_ISREG(info.st_mode):
            self._count(info.st_size)
            version = (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
            if self._is_news(target, info, version):
                self._send_file(fd, target, info)
                self._note(target, info, version)

    def _send_entries(self, directory: int, target: str, level: int) -> None:
        if level > MOST_LEVELS:
            raise ConfigError(f"{self._copy.path} has directories nested deeper than {MOST_LEVELS} levels")
        infos = [
            (name, os.stat(name, dir_fd=directory, follow_symlinks=False)) for name in sorted(os.listdir(directory))
        ]
        # Links are read before all else and sent after it: what one leads to is complete then, and in the guest.
        links = [
            (f"{target}/{name}", info, os.fsencode(os.readlink(name, dir_fd=directory)))
            for name, info in infos
            if stat.S_ISLNK(info.st_mode)
        ]
        for name, info in infos:
            if stat.S_ISDIR(info.st_mode) or stat.S_ISREG(info.st_mode):
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                fd = os.open(name, flags, dir_fd=directory)
                try:
                    self._send(fd, f"{target}/{name}", level)
                finally:
                    os.close(fd)
        for path, info, link in links:
            self._count(0)
            if self._is_news(path, info, (link,)):
                self._piece(path, info, data=link, size=len(link))
                self._note(path, info, (link,))

    def _send_file(self, fd: int, target: str, info: os.stat_result) -> None:
        """As many bytes as it had at first: the agent puts the file in place when it has them all."""
        offset = 0
        while True:
            data = os.pread(fd, min(PIECE, info.st_size - offset), offset)
            if not data and offset < info.st_size:
                raise ConfigError(f"{self._copy.path} became shorter while it was copied into the guest")
            self._piece(target, info, data=data, size=info.st_size, offset=offset)
            offset += len(data)
            if offset >= info.st_size:
                return

    def _piece(self, target: str, info: os.stat_result, *, data: bytes = b"", size: int = 0, offset: int = 0) -> None:
        self._receiver.copy_file(
            agent_pb2.CopyFileRequest(
                path=target,
                file_size=size,
                file_mode=info.st_mode,
                dir_mode=PARENT_MODE,
                uid=info.st_uid,
                gid=info.st_gid,
                offset=offset,
                data=data,
            )
        )

    def _is_news(self, target: str, info: os.stat_result, version: tuple[object, ...] = ()) -> bool:
        """Whether the guest has something else there. A directory that is none any more is taken away first."""
        self._found.add(target)
        before = self._there.get(target)
        if before is not None and stat.S_ISDIR(before.mode) and not stat.S_ISDIR(info.st_mode):
            self._remove([path for path in self._there if path == target or path.startswith(f"{target}/")])
        return before != _Entry(info.st_mode, info.st_uid, info.st_gid, version)

    def _note(self, target: str, info: os.stat_result, version: tuple[object, ...] = ()) -> None:
        self._there[target] = _Entry(info.st_mode, info.st_uid, info.st_gid, version)

    def _remove(self, paths: list[str]) -> None:
        """Those below first."""
        for path in sorted(paths, reverse=True):
            self._receiver.copy_file(agent_pb2.CopyFileRequest(path=path, file_mode=WHITEOUT, dir_mode=PARENT_MODE))
            del self._there[path]

    def _count(self, size: int) -> None:
        self._bytes += size
        self._entries += 1
        if self._bytes > MOST_BYTES or self._entries > MOST_ENTRIES:
            raise ConfigError(
                f"{self._copy.path} is too large to be copied into the guest"
                f" (more than {MOST_BYTES >> 20} MiB or {MOST_ENTRIES} files)",
                hint='set shared_fs = "virtio-fs", or give the volume as a block device',
            )

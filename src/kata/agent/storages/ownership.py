"""fs_group: giving all that is in a volume to a group, as Kubernetes' fsGroup promises.

Called by `mounter` when a volume is mounted. Containers have written to the tree, so everything is reached by
descriptors, links are never followed and other file systems never entered. Bits are only added.
"""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from kata.agent.storages.errors import InvalidStorage, StorageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.protocol.generated import agent_pb2

ALWAYS, ON_ROOT_MISMATCH = 0, 1
_FILE_BITS = 0o660
_DIRECTORY_BITS = 0o660 | 0o110 | stat.S_ISGID  # what is made inside belongs to the group too
_DEEPEST = 256
"""Levels of directories, each of which takes a descriptor while it is walked."""
_LAST_ID = 0xFFFFFFFE


class GroupOwner(NamedTuple):
    """The group to be, and whether a root directory that is right already is taken for the whole tree."""

    gid: int
    trust_root: bool = False


def parse_group(storage: agent_pb2.Storage) -> GroupOwner | None:
    """What `fs_group` asks for. Raises InvalidStorage."""
    if not storage.HasField("fs_group"):
        return None
    gid, policy = storage.fs_group.group_id, storage.fs_group.group_change_policy
    if gid > _LAST_ID or policy not in (ALWAYS, ON_ROOT_MISMATCH):
        raise InvalidStorage(f"fs_group at {storage.mount_point}: group {gid}, policy {policy}")
    return GroupOwner(gid, policy == ON_ROOT_MISMATCH)


def give_tree(path: str, owner: GroupOwner) -> None:
    """Give the tree at `path` to the group: files get ug+rw, directories ug+rwx and setgid.

    A read-only file system is left as it is, as Kubernetes does. Raises OSError, StorageError.
    """
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        return
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        info = os.fstat(fd)
        if owner.trust_root and _is_right(info, owner.gid):
            return
        if stat.S_ISDIR(info.st_mode):
            _walk(fd, owner.gid, info.st_dev)
        _give(fd, info, owner.gid)  # last: a walk that broke off must not look done to the next one
    finally:
        os.close(fd)


def _is_right(info: os.stat_result, gid: int) -> bool:
    bits = _bits(info.st_mode)
    return info.st_gid == gid and info.st_mode & bits == bits


def _walk(directory: int, gid: int, device: int, depth: int = 1) -> None:
    if depth > _DEEPEST:
        raise StorageError(f"fs_group: directories are nested deeper than {_DEEPEST} levels")
    for name in os.listdir(f"/proc/self/fd/{directory}"):
        try:
            fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        except FileNotFoundError:
            continue  # somebody who shares the volume has removed it
        try:
            info = os.fstat(fd)
            if info.st_dev != device:
                continue
            if stat.S_ISLNK(info.st_mode):
                os.chown(name, -1, gid, dir_fd=directory, follow_symlinks=False)
                continue
            if stat.S_ISDIR(info.st_mode):
                _walk(fd, gid, device, depth + 1)
            _give(fd, info, gid)
        finally:
            os.close(fd)


def _give(fd: int, info: os.stat_result, gid: int) -> None:
    inode = f"/proc/self/fd/{fd}"  # the inode itself, for descriptors that are O_PATH
    if info.st_gid != gid:
        os.chown(inode, -1, gid)  # clears setuid and setgid of programs, so the mode comes after
    mode = stat.S_IMODE(info.st_mode) | _bits(info.st_mode)
    if info.st_gid != gid or mode != stat.S_IMODE(info.st_mode):
        os.chmod(inode, mode)


def _bits(mode: int) -> int:
    return _DIRECTORY_BITS if stat.S_ISDIR(mode) else _FILE_BITS

"""A small tree of the share kept in the guest's memory as a copy, so that inotify works on it.

Made by `mounter` for the driver "watchable-bind", brought up to date by `watcher`. Changes on the host give no
inotify events through virtio-fs or 9p; writes to the copy do. Containers can write to the copy, so it is reached
with `ConfinedDir` and no link planted in it leads out. Never follow a link of the source either.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from typing import NamedTuple

from kata.agent.storages.errors import StorageError
from kata.agent.storages.ownership import give_tree
from kata.linux.confine import ConfinedDir
from kata.linux.fds import write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.agent.storages.ownership import GroupOwner

MAX_ENTRIES, MAX_BYTES = 16, 1 << 20
"""What is mirrored; what is larger to begin with is bound instead (upstream's limits)."""
_WHILE_CHANGING = 4  # an update of a ConfigMap holds the old tree and the new one for a moment
_TEMPORARY = ".kata-new"
_TRIES = 3


class TooLarge(StorageError):  # noqa: N818 - the room's errors are named after what they say
    """A tree has more entries or bytes than are mirrored."""


class Entry(NamedTuple):
    """One file, directory or link as far as a copy of it depends on it."""

    mode: int
    uid: int
    gid: int
    version: tuple[int, ...] = ()
    """Of a file: inode, size, times."""
    link: str = ""


def scan(source: str, factor: int = 1) -> dict[str, Entry]:
    """What is at `source`, by relative path ("" is itself); what is neither file, directory nor link is left out.

    Raises TooLarge above `factor` times the limits, OSError.
    """
    found: dict[str, Entry] = {}
    fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        found[""] = _entry(os.fstat(fd))
        if stat.S_ISDIR(found[""].mode):
            _scan_directory(fd, "", found, factor)
    finally:
        os.close(fd)
    size = sum(entry.version[1] for entry in found.values() if entry.version)
    if size > MAX_BYTES * factor:
        raise TooLarge(f"{source} has {size} bytes, {MAX_BYTES * factor} are mirrored at most")
    return found


def _scan_directory(directory: int, prefix: str, found: dict[str, Entry], factor: int) -> None:
    for name in sorted(os.listdir(directory)):
        info = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if len(found) > MAX_ENTRIES * factor:
            raise TooLarge(f"more than {MAX_ENTRIES * factor} entries are not mirrored")
        if stat.S_ISLNK(info.st_mode):
            found[prefix + name] = _entry(info)._replace(link=os.readlink(name, dir_fd=directory))
        elif stat.S_ISREG(info.st_mode):
            found[prefix + name] = _entry(info)
        elif stat.S_ISDIR(info.st_mode):
            found[prefix + name] = _entry(info)
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            try:
                _scan_directory(fd, f"{prefix}{name}/", found, factor)
            finally:
                os.close(fd)


def _entry(info: os.stat_result) -> Entry:
    version: tuple[int, ...] = ()
    if stat.S_ISREG(info.st_mode):
        version = (info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
    return Entry(info.st_mode, info.st_uid, info.st_gid, version)


class Mirror:
    """`target` as a copy of `source`: both directories, or both files; given to `group`, when there is one.

    `update` and `close` from any thread.
    """

    def __init__(self, source: str, target: str, group: GroupOwner | None = None) -> None:
        self.source = source
        self._group = group
        self._target = target
        self._lock = threading.Lock()
        self._copied: dict[str, Entry] = {}
        self._root = ConfinedDir(target) if os.path.isdir(target) else None
        self._closed = False

    def update(self) -> bool:
        """Copy what has changed; whether anything had. A source that keeps changing is left for the next time.

        Files and directories come first, then links, then removals: a link that is swapped (as kubelet swaps
        `..data`) always leads to a tree that is whole. Raises TooLarge, OSError; the copy is then as it was or newer.
        """
        with self._lock:
            for _ in range(_TRIES):
                if self._closed:
                    return False
                wanted = scan(self.source, _WHILE_CHANGING)
                if wanted == self._copied:
                    return False
                if self._copy_all(wanted):
                    return True
            return True

    def close(self) -> None:
        """Never write again. Waits for an update that is under way."""
        with self._lock:
            self._closed = True
            if self._root is not None:
                self._root.close()

    def _copy_all(self, wanted: dict[str, Entry]) -> bool:
        if stat.S_ISDIR(wanted[""].mode) != (self._root is not None):
            raise NotADirectoryError(errno.ENOTDIR, f"{self.source} has become something else")
        self._remove_other_kinds(wanted)
        changed = [path for path, entry in wanted.items() if self._copied.get(path) != entry]
        try:
            for path in changed:
                if not stat.S_ISLNK(wanted[path].mode):
                    self._put(path, wanted[path])
        except FileNotFoundError:
            return False
        if scan(self.source, _WHILE_CHANGING) != wanted:
            return False  # links might lead to what was not there yet when the directories were read
        for path in changed:
            if stat.S_ISLNK(wanted[path].mode):
                self._put(path, wanted[path])
        for path in sorted(self._copied.keys() - wanted.keys(), reverse=True):  # what is inside before its directory
            self._remove(path)
        if self._group:
            give_tree(self._target, self._group)
        return True

    def _remove_other_kinds(self, wanted: dict[str, Entry]) -> None:
        """What is a directory here and none there, or the reverse, goes first, with what is in it."""
        other = {
            path
            for path, entry in self._copied.items()
            if path and path in wanted and stat.S_ISDIR(wanted[path].mode) != stat.S_ISDIR(entry.mode)
        }
        for path in sorted(self._copied, reverse=True):
            if path in other or any(path.startswith(f"{folder}/") for folder in other):
                self._remove(path)

    def _put(self, path: str, entry: Entry) -> None:
        self._copied[path] = entry._replace(uid=-1)  # what is begun is known, and not taken for done
        if self._root is None:
            self._rewrite(entry)
        else:
            self._put_inside(self._root, path, entry)
        self._copied[path] = entry

    def _put_inside(self, root: ConfinedDir, path: str, entry: Entry) -> None:
        head, _, name = path.rpartition("/")
        parent = root.open_dir(head or ".")
        try:
            if stat.S_ISDIR(entry.mode):
                _put_directory(parent, name or ".", entry)
            else:
                _clear(parent, _TEMPORARY)
                if stat.S_ISLNK(entry.mode):
                    os.symlink(entry.link, _TEMPORARY, dir_fd=parent)
                    os.chown(_TEMPORARY, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
                else:
                    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                    self._fill(os.open(_TEMPORARY, flags, 0o600, dir_fd=parent), path, entry)
                _clear_directory(parent, name)  # rename(2) replaces all else in one step
                os.rename(_TEMPORARY, name, src_dir_fd=parent, dst_dir_fd=parent)
        except BaseException:
            _clear(parent, _TEMPORARY)  # else its directory could not be removed later
            raise
        finally:
            os.close(parent)

    def _rewrite(self, entry: Entry) -> None:
        """A single file is bound into the container by its inode, so that inode gets the new content."""
        self._fill(os.open(self._target, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC), "", entry)

    def _fill(self, fd: int, path: str, entry: Entry) -> None:
        """Content, owner and mode into a new file; closes `fd`."""
        try:
            source = self._open_source(path)
            try:
                left = MAX_BYTES * _WHILE_CHANGING
                while left > 0 and (data := os.read(source, min(left, 1 << 16))):
                    write_all(fd, data)
                    left -= len(data)
            finally:
                os.close(source)
            os.fchown(fd, entry.uid, entry.gid)
            os.fchmod(fd, stat.S_IMODE(entry.mode))
        finally:
            os.close(fd)

    def _open_source(self, path: str) -> int:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        if not path:
            return os.open(self.source, (flags & ~os.O_NOFOLLOW) | os.O_CLOEXEC)
        with ConfinedDir(self.source) as root:
            return root.open(path, flags)

    def _remove(self, path: str) -> None:
        assert self._root is not None
        self._copied.pop(path)
        head, _, name = path.rpartition("/")
        try:
            parent = self._root.open_dir(head or ".")
        except OSError:
            return  # a container has removed or replaced it
        try:
            _clear(parent, name)
            _clear_directory(parent, name)
        finally:
            os.close(parent)


def _put_directory(parent: int, name: str, entry: Entry) -> None:
    if name != ".":
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            _clear(parent, name)
            try:
                os.mkdir(name, 0o700, dir_fd=parent)
            except FileExistsError:
                pass
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        os.fchown(fd, entry.uid, entry.gid)
        os.fchmod(fd, stat.S_IMODE(entry.mode))
    finally:
        os.close(fd)


def _clear(parent: int, name: str) -> None:
    """Remove a file or link; a directory, and what is not there, stays as it is."""
    try:
        if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        pass


def _clear_directory(parent: int, name: str) -> None:
    """Remove an empty directory; one that a container has put something into stays, and so does all else."""
    try:
        os.rmdir(name, dir_fd=parent)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.ENOTDIR):
            raise

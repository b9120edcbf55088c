"""The one place that carries out what storage handlers ask for, and undoes it.

Called by `table`. Everything that was done before a failure is undone before the error goes on. No mount point is
reached through a symbolic link: containers may have planted one (CVE-2015-3629). Never decide here what is mounted.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager, suppress

from kata.agent.storages.context import DIRECTORY_MODE
from kata.agent.storages.errors import StorageError
from kata.agent.storages.hugepages import give_back, reserve
from kata.agent.storages.ownership import give_tree
from kata.linux import mounts, syscalls
from kata.linux.confine import ConfinedDir
from kata.linux.fds import read_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from kata.agent.storages.context import Directory, MountRequest
    from kata.agent.storages.mirror import Mirror
    from kata.agent.storages.watcher import Watcher

_DATA_LIMIT = os.sysconf("SC_PAGE_SIZE") - 1  # mount(2): the kernel reads at most one page of options
# These are changed on a bind mount by remounting it; the kernel ignores them in the first call.
_BIND_FLAGS = syscalls.MS_BIND | syscalls.MS_REC
_KEPT_FLAGS = syscalls.MS_RDONLY | syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
# File systems that guest kernels have as modules, and the modules to ask for.
_MODULES = {
    "9p": ("9pnet_virtio", "9p"),
    "btrfs": ("btrfs",),
    "ext4": ("ext4",),
    "virtiofs": ("virtiofs",),
    "xfs": ("xfs",),
}

# Linux has no pages for a namespace of the mode "raw", and without pages there is no DAX (drivers/nvdimm/pmem.c).
_NO_DAX = "Persistent memory takes dax when the namespace in its image has the mode fsdax (`ndctl create-namespace`)."


class Mounted:
    """One request carried out. `close` undoes it: unmounts, then removes what had been made for it."""

    def __init__(self, request: MountRequest, watcher: Watcher) -> None:
        self._request = request
        self._watcher = watcher
        self._mirror: Mirror | None = None
        self._made: list[str] = []
        self._is_mounted = False
        self._has_pages = False
        try:
            self._carry_out()
        except OSError as error:
            self._abandon()
            raise StorageError(
                f"cannot mount {request.source or request.fstype or 'storage'} at {request.target.path}: "
                f"{error.strerror}",
                hint=_NO_DAX if error.errno == errno.EINVAL and "dax" in request.data else "",
                detail=str(error),
            ) from error
        except BaseException:
            self._abandon()
            raise

    def close(self) -> None:
        """Unmount and remove. A directory that something was put into stays. Raises StorageError."""
        try:
            if self._mirror is not None:
                self._watcher.remove(self._mirror)
                self._mirror = None
            if self._is_mounted:
                with suppress(FileNotFoundError), _plain(self._request.target.path):
                    mounts.unmount(self._request.target.path)
                self._is_mounted = False
            if self._has_pages and self._request.pages:
                give_back(self._request.pages)
                self._has_pages = False
            for path in self._request.scratch:
                mounts.remove_tree(path)
            self._remove_made()
        except OSError as error:
            raise StorageError(
                f"cannot give back the storage at {self._request.target.path}: {error.strerror}",
                detail=str(error),
            ) from error

    def remount(self, request: MountRequest) -> None:
        """Change the options of what is mounted; what was forbidden stays forbidden. Raises StorageError."""
        target = self._request.target.path
        try:
            kept = os.statvfs(target).f_flag & _KEPT_FLAGS
            syscalls.mount(request.source, target, "", request.flags | kept | syscalls.MS_REMOUNT, request.data)
        except OSError as error:
            raise StorageError(f"cannot remount {target}: {error.strerror}", detail=str(error)) from error

    def _carry_out(self) -> None:
        request = self._request
        if len(request.data) > _DATA_LIMIT:
            raise StorageError(
                f"the options for {request.target.path} are longer than the kernel takes ({_DATA_LIMIT} bytes)"
            )
        for directory in request.directories:
            self._make_directory(directory)
        self._make_target()
        if request.premounted and _holds(request.target.path, request.fstype):
            return
        if request.pages:
            reserve(request.pages)
            self._has_pages = True
        if request.mounted:
            self._mount()
            if request.gid >= 0:
                _give_to_group(request.target.path, request.gid)
        if request.watched:
            self._follow()  # which sees to the group, now and later
        elif request.group:
            give_tree(request.target.path, request.group)

    def _follow(self) -> None:
        """Copy the watched tree, and have it followed from now on."""
        from kata.agent.storages.mirror import Mirror

        mirror = Mirror(self._request.watched, self._request.target.path, self._request.group)
        self._watcher.add(mirror)
        self._mirror = mirror
        mirror.update()

    def _mount(self) -> None:
        """Through descriptors: what is mounted on is what was looked at, wherever the path leads by then."""
        request = self._request
        bound = bool(request.flags & syscalls.MS_BIND)
        if not bound:
            _load_filesystem(request.fstype)
        with _plain(request.target.path) as place:
            if bound:
                syscalls.mount(request.source, place, "", request.flags & _BIND_FLAGS)
            else:
                syscalls.mount(request.source, place, request.fstype, request.flags, request.data)
        self._is_mounted = True
        with _plain(request.target.path) as place:  # of what is mounted there now
            if bound and request.flags & ~_BIND_FLAGS:
                kept = os.statvfs(place).f_flag & _KEPT_FLAGS  # what the source forbids stays forbidden
                flags = (request.flags & ~syscalls.MS_REC) | syscalls.MS_REMOUNT | kept
                syscalls.mount(request.source, place, "", flags, request.data)
            if request.propagation:
                syscalls.mount("none", place, "", request.propagation)

    def _make_target(self) -> None:
        request = self._request
        path = request.target.path
        origin = request.source if request.flags & syscalls.MS_BIND else request.watched
        if origin and not stat.S_ISDIR(os.stat(origin).st_mode):
            self._make_parents(path)
            self._make_file(path)
        else:
            self._make_directory(request.target)
        with _plain(path):
            pass

    def _make_file(self, path: str) -> None:
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644))
        except FileExistsError:
            return
        self._made.append(path)

    def _make_directory(self, directory: Directory) -> None:
        self._make_parents(directory.path)
        try:
            os.mkdir(directory.path)
        except FileExistsError:
            if not os.path.isdir(directory.path):
                raise
            return
        self._made.append(directory.path)
        if directory.gid >= 0:
            os.chown(directory.path, -1, directory.gid)
        os.chmod(directory.path, directory.mode)  # after mkdir, which applies the umask, and chown, which clears bits

    def _make_parents(self, path: str) -> None:
        with _refusing_links(path), ConfinedDir("/", links=False) as root:
            os.close(root.make_dirs(os.path.dirname(os.path.normpath(path)), DIRECTORY_MODE))

    def _remove_made(self) -> None:
        while self._made:
            path = self._made.pop()
            try:
                os.unlink(path) if os.path.isfile(path) else os.rmdir(path)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EBUSY):
                    raise

    def _abandon(self) -> None:
        """Undo as far as it goes; the error that brought us here is the one to tell."""
        try:
            self.close()
        except StorageError:
            pass


@contextmanager
def _plain(path: str) -> Iterator[str]:
    """A name for what is at `path` now, reached through no symbolic link. Raises StorageError, OSError."""
    with _refusing_links(path), ConfinedDir("/", links=False) as root:
        fd = root.open(os.path.normpath(path), os.O_PATH)
    try:
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


@contextmanager
def _refusing_links(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise StorageError(f"the mount point {path} is a symbolic link, or behind one") from error
        raise


def _load_filesystem(fstype: str) -> None:
    """Have the kernel know a file system that is a module of its own. Raises Unsupported."""
    if fstype not in _MODULES or fstype in read_text("/proc/filesystems").split():
        return
    from kata.agent.modules import load_modules

    load_modules(_MODULES[fstype])


def _holds(target: str, fstype: str) -> bool:
    """Whether the topmost mount at `target` is of this type."""
    there = [point.fstype for point in mounts.mount_points() if point.target == os.path.realpath(target)]
    return bool(there) and there[-1] == fstype


def _give_to_group(path: str, gid: int) -> None:
    os.chown(path, -1, gid)
    mode = stat.S_IMODE(os.stat(path).st_mode)
    os.chmod(path, mode | 0o2070)  # noqa: S103 - the group is to write here, that is what was asked for

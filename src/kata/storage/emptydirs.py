"""emptyDirs that are disks: an ext4 in a sparse file in the emptyDir's folder, made when it is first needed.

Called by the sandbox's table of disks. The file is as large as the file system that it lies in, and takes what is
written to it; the kubelet sees that, and removes it with the folder at the latest. Every image is noted in the VM's own
folder before it is made, so that whoever clears up after a sandbox that was killed finds it (`remove_images`).
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path

from kata.linux.fds import identity
from kata.linux.process import run
from kata.storage.errors import VolumeError

IMAGE = "disk.img"
"""Upstream's name."""
NOTES = "emptydirs"
LARGEST = 4 << 40
"""Bytes. Making it takes time in proportion, and ext4 files end at four times that."""
SMALLEST = 8 << 20
TIMEOUT = 120.0


def image_path(folder: str) -> str:
    """Where the image of an emptyDir is."""
    return f"{folder}/{IMAGE}"


def make_image(directory: Path, folder: str) -> str:
    """Make the image of the emptyDir at `folder`, unless this sandbox has; `directory` is the VM's. Raises VolumeError.

    What another sandbox left there is replaced. Returns what the image is (`fds.identity`): a container that has the
    folder too, by a subPath, may put something else under its name at any moment, so whoever opens it has to look.
    """
    notes, path = directory / NOTES, image_path(folder)
    note = notes / hashlib.sha256(os.fsencode(folder)).hexdigest()[:32]
    made = note.is_symlink()
    try:
        if made:
            return _identity(os.lstat(path))
        info, room = os.stat(folder), os.statvfs(folder)
        notes.mkdir(mode=0o700, parents=True, exist_ok=True)
        note.symlink_to(path)
        return _make(folder, min(LARGEST, max(SMALLEST, room.f_blocks * room.f_frsize)), info)
    except BaseException as error:
        if not made:
            _remove(note)
        if isinstance(error, OSError):
            raise VolumeError(
                f"no disk can be made for the emptyDir {folder}: {error}",
                hint='look at the file system there, or set emptydir_mode = "shared-fs"',
                layer="host",
            ) from error
        raise


def remove_images(directory: Path) -> None:
    """Remove every image of the sandbox whose VM has this folder. Idempotent."""
    try:
        notes = list((directory / NOTES).iterdir())
    except FileNotFoundError:
        return
    for note in notes:
        _remove(note)
    (directory / NOTES).rmdir()


def _make(folder: str, size: int, info: os.stat_result) -> str:
    """The file system: empty, its root like the folder. It ends with its pod, so it needs no journal.

    Programs get the file by its descriptor: a link put in its place meanwhile leads nobody anywhere.
    """
    _unlink(image_path(folder))
    place = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(IMAGE, flags, 0o600, dir_fd=place)
    finally:
        os.close(place)
    try:
        os.ftruncate(fd, size)
        _format(fd, info)
        return _identity(os.fstat(fd))
    finally:
        os.close(fd)


def _format(fd: int, info: os.stat_result) -> None:
    path, features = f"/proc/self/fd/{fd}", "^has_journal,^resize_inode"
    argv = ["mkfs.ext4", "-q", "-F", "-m", "0", "-O", features, "-E", "lazy_itable_init=1", path]
    run(argv, timeout=TIMEOUT, pass_fds=(fd,))
    mode = stat.S_IFDIR | stat.S_IMODE(info.st_mode)
    orders = [f"set_inode_field / mode 0{mode:o}", f"set_inode_field / uid {info.st_uid}"]
    orders += [f"set_inode_field / gid {info.st_gid}", "rmdir /lost+found"]
    run(["debugfs", "-w", "-f", "-", path], input="\n".join(orders).encode(), timeout=TIMEOUT, pass_fds=(fd,))


def _identity(info: os.stat_result) -> str:
    found = identity(info)
    if not found.startswith("file"):
        raise OSError(errno.EEXIST, f"{IMAGE} is no file any more")
    return found


def _remove(note: Path) -> None:
    """The image first: a note without one is harmless."""
    try:
        _unlink(os.readlink(note))
    except OSError:
        pass  # the folder is gone, and the image with it
    note.unlink(missing_ok=True)


def _unlink(path: str) -> None:
    try:
        if os.path.basename(path) == IMAGE and stat.S_ISREG(os.lstat(path).st_mode):
            os.unlink(path)
    except FileNotFoundError:
        pass

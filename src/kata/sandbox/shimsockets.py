"""Notes of the sockets at which shims listen, outside of the state directory, so that those of the dead are found.

`<state>/shims/<name>` has the socket's path, and is flocked by its shim for life, as a sandbox's folder is: a note
whose lock is free belongs to a shim that was killed. Made at the very start of a shim, so this imports next to nothing.
"""

from __future__ import annotations

import os
import socket
import stat

from kata.linux.flock import try_lock, wait_lock
from kata.zygote.context import state

DIAL_TIMEOUT = PATIENCE = 2.0


def folder() -> str:
    """Where the notes are."""
    return os.path.join(state(), "shims")


def note(path: str) -> int:
    """Say that this process, and what it forks, is about to listen at `path`: a descriptor, which holds the note.

    -1 when another shim holds it. Raises OSError.
    """
    os.makedirs(folder(), 0o700, exist_ok=True)
    while True:
        fd = os.open(_note_of(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        if not try_lock(fd) and (answers(path) or not wait_lock(fd, PATIENCE)):
            os.close(fd)
            return -1
        if os.fstat(fd).st_nlink:
            os.pwrite(fd, os.fsencode(path), 0)
            return fd
        os.close(fd)  # a dead one's, which was removed meanwhile


def forget(path: str) -> None:
    """The shim that listened at `path` has ended in order; its socket is gone."""
    try:
        os.unlink(_note_of(path))
    except FileNotFoundError:
        pass


def abandoned() -> list[str]:
    """The sockets, by their paths, of shims that are dead: nobody holds their notes."""
    found = []
    for name in _names():
        fd = _hold(name)
        if fd >= 0:
            found.append(os.fsdecode(os.pread(fd, 4096, 0)))
            os.close(fd)
    return found


def sweep() -> list[str]:
    """Remove the sockets and notes of dead shims; the paths of the sockets."""
    removed = []
    for name in _names():
        fd = _hold(name)
        if fd < 0:
            continue
        try:
            path = os.fsdecode(os.pread(fd, 4096, 0))
            remove_dead(path)
            os.unlink(os.path.join(folder(), name))
            removed.append(path)
        finally:
            os.close(fd)
    return removed


def remove_dead(path: str) -> None:
    """Remove a socket unless somebody listens there: it may be another shim's by now."""
    try:
        found = os.lstat(path)
        if stat.S_ISSOCK(found.st_mode) and not answers(path) and os.lstat(path).st_ino == found.st_ino:
            os.unlink(path)
    except (FileNotFoundError, NotADirectoryError):
        pass


def answers(path: str) -> bool:
    """Whether some process listens at the socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(DIAL_TIMEOUT)
        try:
            sock.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True  # too busy to say
    return True


def _note_of(path: str) -> str:
    return os.path.join(folder(), os.path.basename(path))


def _names() -> list[str]:
    try:
        return sorted(os.listdir(folder()))
    except FileNotFoundError:
        return []


def _hold(name: str) -> int:
    """The note of a dead shim, locked; -1 for one that lives or has gone meanwhile."""
    try:
        fd = os.open(os.path.join(folder(), name), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return -1
    if not try_lock(fd) or not os.fstat(fd).st_nlink:
        os.close(fd)
        return -1
    return fd

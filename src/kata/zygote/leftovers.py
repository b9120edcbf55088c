"""What a zygote leaves that was killed: its socket, and its lock, which nobody holds.

A start replaces both when it needs one of the same context; until then nobody else takes them away.
"""

from __future__ import annotations

import os

from kata.linux.flock import try_lock
from kata.zygote.context import folder

LOCK = ".lock"


def abandoned() -> list[str]:
    """The names of dead zygotes. Raises OSError."""
    found = []
    for name in _names():
        fd = _hold(name)
        if fd >= 0:
            os.close(fd)
            found.append(name)
    return found


def remove(name: str) -> bool:
    """Remove what is left of one, unless there is another of that name by now; whether it was removed."""
    fd = _hold(name)
    if fd < 0:
        return False
    try:
        for path in (_path(name), _path(name) + LOCK):
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass
    finally:
        os.close(fd)
    return True


def _names() -> list[str]:
    try:
        return sorted(entry.removesuffix(LOCK) for entry in os.listdir(folder()) if entry.endswith(LOCK))
    except FileNotFoundError:
        return []


def _path(name: str) -> str:
    return os.path.join(folder(), name)


def _hold(name: str) -> int:
    """The lock, taken; -1 where a zygote holds it, or it has gone meanwhile."""
    try:
        fd = os.open(_path(name) + LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return -1
    if try_lock(fd) and os.fstat(fd).st_nlink:
        return fd
    os.close(fd)
    return -1

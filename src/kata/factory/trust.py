"""Opening files that decide what runs in every sandbox: only those that nobody but this user can have written.

Called by `store`. An operator may put templates anywhere (`template_path`); a folder that others can write to is then
no place for them, and they boot instead.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from kata.factory.errors import UnusableError

if TYPE_CHECKING:
    from pathlib import Path

OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def require_own(folder: Path) -> None:
    """Raise UnusableError unless the folder is ours, and ours alone to write to. Links lead to it. Raises OSError."""
    _check(os.stat(folder), folder)


@contextmanager
def opened(folder: Path, names: Sequence[str]) -> Iterator[list[int]]:
    """Files of a folder, open for reading during the block. Neither is the folder a link, nor are they.

    Raises UnusableError when any of them, or where they are, could have been written by somebody else; OSError.
    """
    require_own(folder.parent)
    with ExitStack() as stack:
        place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        stack.callback(os.close, place)
        _check(os.fstat(place), folder)
        found = []
        for name in names:
            # Not blocking: a pipe in its place is refused below, and not waited for.
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=place)
            stack.callback(os.close, fd)
            _check_file(fd, folder / name)
            found.append(fd)
        yield found


def _check_file(fd: int, path: Path) -> None:
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode):
        raise UnusableError(f"{path} is no file")
    _check(info, path)
    os.set_blocking(fd, True)


def _check(info: os.stat_result, path: Path) -> None:
    if info.st_uid != os.geteuid() or info.st_mode & OTHERS_WRITE:
        raise UnusableError(
            f"{path} can be written by others than its user, so no guest may come from it",
            hint=f"chown {os.geteuid()} {path} && chmod go-w {path}, or remove it",
        )

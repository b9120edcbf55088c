"""File operations that cannot leave one directory, whatever links a hostile tree contains.

Called by the agent's CopyFile and by the host for folders that a guest writes to. Every path is resolved by
the kernel with openat2(RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS): absolute links and ".." stay inside. What
changes the tree then works on the parent's descriptor with *at calls. Never add a function that takes a path
and reopens it by name outside.
"""

from __future__ import annotations

import os

from kata.linux import syscalls

_RESOLVE = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS


class ConfinedDir:
    """A directory that acts as the root of every path given to it. Context manager; owns a descriptor.

    Without `links` a path that leads through a symbolic link, or ends at one, is refused (ELOOP): what is inside is
    not one's alone, and even a link that stays inside would lead to what is another's.
    """

    def __init__(self, path: str, *, links: bool = True) -> None:
        self._resolve = _RESOLVE if links else _RESOLVE | syscalls.RESOLVE_NO_SYMLINKS
        self._fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> ConfinedDir:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the directory's descriptor back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def open(self, path: str, flags: int, mode: int = 0) -> int:
        """Open `path` inside; the caller owns the descriptor. Raises OSError."""
        return syscalls.openat2(self._fd, path.lstrip("/") or ".", flags, mode, self._resolve)

    def open_dir(self, path: str) -> int:
        """Open a directory inside, for use as `dir_fd`; the caller owns it. Raises OSError."""
        return self.open(path, os.O_RDONLY | os.O_DIRECTORY)

    def make_dirs(self, path: str, mode: int) -> int:
        """Make the directories of `path` that are missing, with `mode`; the descriptor of the last. Raises
        OSError.

        Directories that exist keep their mode. ".." is refused: between making and opening it could mean two
        different places.
        """
        done = ""
        here = self.open_dir(".")
        for name in split(path):
            done = f"{done}/{name}"
            try:
                os.mkdir(name, mode, dir_fd=here)
                _set_mode(here, name, mode)
            except FileExistsError:
                pass
            finally:
                os.close(here)
            here = self.open_dir(done)
        return here


def _set_mode(parent: int, name: str, mode: int) -> None:
    """What mkdir left out because of the umask; never through a link put there meanwhile."""
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        os.fchmod(fd, mode)
    finally:
        os.close(fd)


def split(path: str) -> list[str]:
    """The names of a path. Raises ValueError on "..", NUL and names that are too long for any file system."""
    names = [name for name in path.split("/") if name not in ("", ".")]
    for name in names:
        if name == ".." or "\0" in name or len(os.fsencode(name)) > 255:
            raise ValueError(f"{path!r} is no usable path")
    return names

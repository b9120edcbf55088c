"""Edits containerd's configuration on disk: in one step, with a backup beside it, and back again."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from kata.ctl.containerd import document
from kata.errors import KataError

if TYPE_CHECKING:
    from pathlib import Path

BACKUP = ".before-kata"
"""The suffix of the backup."""
SIZE_LIMIT = 4 << 20


def add(path: Path, *, dry_run: bool = False) -> str:
    """Add our runtime to the file, which is made when there is none; what was done. Raises KataError."""
    before = read(path)
    edited = document.add(before or "")
    if not edited.changed:
        return f"{path} has the runtime {document.RUNTIME} already"
    if not dry_run:
        if before is not None and document.remove(before).text == before:
            write(backup_of(path), before, like=path)
        write(path, edited.text, like=path)
    verb = "made" if before is None else "changed"
    kept = "" if before is None else f"; as it was: {backup_of(path)}"
    return f"{path} {verb}: runtime {document.RUNTIME}{kept}"


def undo(path: Path, *, dry_run: bool = False) -> str:
    """Take our runtime out of the file; what was done. Raises KataError.

    A file that nobody else has changed is as it was then, and its backup goes; one that had not been there is removed.
    """
    before = read(path)
    if before is None:
        return f"there is no {path}"
    edited = document.remove(before)
    if not edited.changed:
        return f"{path} has no runtime of ours"
    backup = read(backup_of(path))
    ours_alone = backup is None and not edited.text.strip()
    if not dry_run:
        if ours_alone:
            path.unlink()
        else:
            write(path, edited.text, like=path)
        if backup == edited.text:
            backup_of(path).unlink()
    if ours_alone:
        return f"{path} removed: there was nothing else in it"
    if backup is not None and backup != edited.text:
        return f"{path} changed: our runtime is out, what others changed stays; {backup_of(path)} is how it once was"
    return f"{path} changed: it is as it was"


def backup_of(path: Path) -> Path:
    """Where the backup of a configuration is."""
    return path.with_name(path.name + BACKUP)


def read(path: Path) -> str | None:
    """A file's text with its line ends as they are; None without the file. Raises KataError."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            text = file.read(SIZE_LIMIT + 1)
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise KataError(f"{path} is no UTF-8 text", layer="config") from None
    except OSError as error:
        raise KataError(f"{path} cannot be read: {error.strerror}", layer="config") from error
    if len(text) > SIZE_LIMIT:
        raise KataError(f"{path} has more than {SIZE_LIMIT >> 20} MiB", layer="config")
    return text


def write(path: Path, text: str, *, like: Path) -> None:
    """Replace a file in one step, where links lead; owner and mode are those of `like`. Raises OSError."""
    real = path.resolve()
    real.parent.mkdir(parents=True, exist_ok=True)
    temporary = real.with_name(f".{real.name}.{os.getpid()}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        with open(fd, "w", encoding="utf-8", newline="") as file:
            if like.exists():
                found = like.stat()
                os.fchown(fd, found.st_uid, found.st_gid)
                os.fchmod(fd, found.st_mode & 0o7777)
            file.write(text)
            file.flush()
            os.fsync(fd)
        temporary.rename(real)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise

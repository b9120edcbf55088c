"""What a making of a template leaves when its process is killed: the machine's folder and user id, and half a template.

The folder's name says which process it belongs to, by its number and its start, so nobody takes another's away. Called
by `make`, and by those who clear up after sandboxes; loads nothing that they would not have.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from kata import paths
from kata.hypervisor.identity import release_identities
from kata.hypervisor.processref import ProcessRef, lives, process_ref

PREFIX = "template-"
ROOT = "root"
"""A link in the folder, to the templates among which the new one was to be."""


def make_directory(name: str, root: Path) -> Path:
    """The folder of the machine that becomes the template `name` of `root`, as this process's."""
    me = process_ref(os.getpid())
    assert me is not None
    directory = paths.vm_dir() / f"{PREFIX}{name}-{me.pid}-{me.start}"
    remove_directory(directory)
    directory.mkdir(mode=0o700, parents=True)
    (directory / ROOT).symlink_to(root.absolute())
    return directory


def remove_directory(directory: Path) -> None:
    """Remove it, then give back the user id that was taken for it. Idempotent."""
    shutil.rmtree(directory, ignore_errors=True)
    release_identities(os.fspath(directory))


def abandoned() -> list[Path]:
    """The folders of machines that were to become templates, when their processes were killed. Raises OSError."""
    return [directory for directory in paths.vm_dir().glob(f"{PREFIX}*") if not _is_being_made(directory)]


def sweep() -> None:
    """Remove what killed makings have left. Raises OSError."""
    for directory in abandoned():
        _remove_half(directory)
        remove_directory(directory)


def _remove_half(directory: Path) -> None:
    from kata.factory.store import TemplateStore  # hardly ever

    with contextlib.suppress(OSError):
        TemplateStore(Path(os.readlink(directory / ROOT))).sweep()


def _is_being_made(directory: Path) -> bool:
    """Whether its process lives."""
    try:
        pid, start = (int(word) for word in directory.name.split("-")[-2:])
    except ValueError:
        return False
    return lives(ProcessRef(pid, start))

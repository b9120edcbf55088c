"""Templates on disk are root's own: whatever else lies there is not gone on from, and the guest boots instead.

GO-2026-5064, 5338, 5622: what was saved and is restored is input like any other. (Whole guests from broken ones are in
tests/vm/test_templates.py.)
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from kata import paths
from kata.factory import memory
from kata.factory.errors import FactoryError, UnusableError
from kata.factory.store import DESCRIPTION, MEMORY, STATE, Description, TemplateStore
from tests.helpers.cli import kata, leftovers

pytestmark = pytest.mark.root

SIZE = 1 << 20
STRANGER = 65534
"""A user id that is not ours."""


def make(store: TemplateStore, name: str = "one", size: int = SIZE) -> Path:
    with store.making(name, 5) as half:
        (half / STATE).write_bytes(b"devices of " + name.encode())
        fd = memory.create(name, size)
        os.pwrite(fd, name.encode(), 4096)
        memory.seal(fd)
        store.publish(half, Description(name, 1.0, (), "tcg", 1, size >> 20, 0, 4096, 0.5), fd)
        os.close(fd)
    return store.root / name


@pytest.fixture
def store(tmp_path: Path) -> TemplateStore:
    made = TemplateStore(tmp_path / "templates")
    make(made)
    return made


def opened(store: TemplateStore) -> bool:
    """Whether the template is taken, in both of the ways that there are."""
    taken = []
    for exclusive in (False, True):
        with ExitStack() as undo:
            try:
                saved = store.open("one", undo, SIZE, exclusive=exclusive)
            except UnusableError:
                saved = None
            if saved is not None and saved.complete is not None:
                saved.complete()
            taken.append(saved is not None)
    assert len(set(taken)) == 1
    return taken[0]


def another(folder: Path) -> Path:
    """A template of a stranger's, complete."""
    elsewhere = TemplateStore(folder.parent.parent / "elsewhere")
    return make(elsewhere)


def linked(path: Path, target: Path) -> None:
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    path.symlink_to(target)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


ATTACKS: dict[str, Callable[[Path], object]] = {
    "the folder is a stranger's": lambda folder: os.chown(folder, STRANGER, STRANGER),
    "others may write to the folder": lambda folder: folder.chmod(0o777),
    "a group may write to the folder": lambda folder: folder.chmod(0o770),
    "the root is a stranger's": lambda folder: os.chown(folder.parent, STRANGER, STRANGER),
    "others may write to the root": lambda folder: folder.parent.chmod(0o1777),
    "the memory is a stranger's": lambda folder: os.chown(folder / MEMORY, STRANGER, 0),
    "the state is a stranger's": lambda folder: os.chown(folder / STATE, STRANGER, 0),
    "others may write to the memory": lambda folder: (folder / MEMORY).chmod(0o666),
    "others may write to the state": lambda folder: (folder / STATE).chmod(0o602),
    "the folder is a link": lambda folder: linked(folder, another(folder)),
    "the memory is a link": lambda folder: linked(folder / MEMORY, another(folder) / MEMORY),
    "the state is a link": lambda folder: linked(folder / STATE, another(folder) / STATE),
    "the state is a link to a file of the host's": lambda folder: linked(folder / STATE, Path("/etc/hostname")),
    "the memory is a link to itself": lambda folder: linked(folder / MEMORY, folder / MEMORY),
    "the memory is a device": lambda folder: linked(folder / MEMORY, Path("/dev/zero")),
    "the state is a pipe": lambda folder: pipe(folder / STATE),
    "the memory is a pipe": lambda folder: pipe(folder / MEMORY),
    "the memory is cut off": lambda folder: os.truncate(folder / MEMORY, SIZE - 4096),
    "the memory is empty": lambda folder: os.truncate(folder / MEMORY, 0),
    "the memory is longer": lambda folder: os.truncate(folder / MEMORY, 1 << 40),
    "the memory is gone": lambda folder: (folder / MEMORY).unlink(),
    "the state is gone": lambda folder: (folder / STATE).unlink(),
    "the description is gone": lambda folder: (folder / DESCRIPTION).unlink(),
    "it is another's, of another size": lambda folder: make(TemplateStore(folder.parent), size=2 * SIZE),
}


def test_what_is_ours_is_taken(store: TemplateStore) -> None:
    assert opened(store)


def test_a_link_of_the_operators_to_its_place_is_fine(store: TemplateStore, tmp_path: Path) -> None:
    (tmp_path / "path").symlink_to(store.root)
    assert opened(TemplateStore(tmp_path / "path"))


@pytest.mark.parametrize("name", ATTACKS)
def test_go_2026_5338_what_is_not_ours_is_not(name: str, store: TemplateStore) -> None:
    ATTACKS[name](store.root / "one")
    assert not opened(store)


@pytest.mark.parametrize("change", [lambda root: root.chmod(0o777), lambda root: os.chown(root, STRANGER, STRANGER)])
def test_go_2026_5338_nor_is_one_made_in_such_a_place(change: Callable[[Path], None], tmp_path: Path) -> None:
    """It could never be used, and whoever has the folder would have the guest's memory."""
    root = tmp_path / "templates"
    root.mkdir()
    change(root)
    with pytest.raises(FactoryError, match="can be written by others"):
        make(TemplateStore(root))
    assert [path for path in root.iterdir() if path.suffix != ".lock"] == []


def test_go_2026_5064_a_memory_that_a_process_claims_to_hold_is_looked_at(store: TemplateStore) -> None:
    """`holders` names descriptors of processes: one that is open for writing by somebody is not taken."""
    folder = store.root / "one"
    (folder / memory.HOLDERS).mkdir(mode=0o700, exist_ok=True)
    holder = folder / memory.HOLDERS / str(os.getpid())
    unsealed = memory.create("one", SIZE)
    other = memory.create("two", SIZE)
    memory.seal(other)
    with ExitStack() as files:
        files.callback(os.close, unsealed)
        files.callback(os.close, other)
        disk = os.open(folder / MEMORY, os.O_RDONLY)
        files.callback(os.close, disk)
        inode = os.fstat(unsealed).st_ino
        for text in (
            f"{unsealed} {inode}",
            f"{other} {os.fstat(other).st_ino}",
            f"{disk} {os.fstat(disk).st_ino}",
            f"-1 {inode}",
            "../../1/fd/0 1",
            "99999999999999999999999 1",
            "0 0",
            "x",
            "",
        ):
            holder.write_text(text)
            with ExitStack() as undo:
                saved = store.open("one", undo, SIZE)
                assert saved is not None
                assert os.fstat(saved.memory_fd).st_ino not in (inode, os.fstat(other).st_ino)
                assert os.pread(saved.memory_fd, 3, 4096) == b"one"


# A whole guest


@pytest.mark.vm
def test_go_2026_5338_a_guest_boots_instead(busybox: str) -> None:
    """A memory that a stranger may have written to is nobody's: the container runs, in a guest that has booted."""
    name = kata("template", "create", check=True).stdout.decode().strip()
    place = paths.templates_dir() / name / MEMORY
    os.chown(place, STRANGER, 0)
    try:
        done = kata("run", "--name", "boots", busybox, "echo", "ran")
        assert (done.returncode, done.stdout) == (0, b"ran\n"), done.stderr.decode()
        [log] = paths.sandboxes_dir().glob("*/runtime.log")
        assert "no template" in log.read_text() and "can be written by others" in log.read_text()
        before = place.stat()
    finally:
        os.chown(place, 0, 0)
        kata("rm", "-f", "boots")
    assert (before.st_uid, before.st_mtime_ns) == (STRANGER, place.stat().st_mtime_ns), "and it is left alone"
    assert leftovers() == []

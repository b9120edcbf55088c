"""Volumes that are copied and followed: an update as the kubelet makes it is in the guest soon, and whole."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from kata.errors import KataError
from kata.log import Logger
from kata.protocol.generated import agent_pb2
from kata.sandbox.copies import Copies
from kata.sandbox.copying import WHITEOUT
from kata.sandbox.errors import ConflictError
from kata.sandbox.updates import Copy
from tests.unit.sandbox.test_copying import Guest, seen

SOON = 2.0
"""Seconds within which the container has to see an update."""


class Following(Guest):
    """A guest that remembers what it was sent, can refuse it, and tells when something came."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.sent: list[tuple[str, bool]] = []
        self.came = threading.Condition()
        self.refuse = False

    def copy_file(self, piece: agent_pb2.CopyFileRequest) -> None:
        with self.came:
            if self.refuse:
                self.came.notify_all()
                raise KataError("not now")
            super().copy_file(piece)
            self.sent.append((os.path.relpath(piece.path, self.root / "volume"), piece.file_mode == WHITEOUT))
            self.came.notify_all()

    def has(self, what: Callable[[], bool], timeout: float = SOON) -> bool:
        with self.came:
            return self.came.wait_for(what, timeout)


@pytest.fixture
def copies() -> Iterator[Copies]:
    made = Copies(Logger(os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)))
    before = threading.active_count()
    yield made
    made.close()
    assert threading.active_count() <= before


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """A ConfigMap of two keys, as the kubelet makes one."""
    made = tmp_path / "settings"
    made.mkdir()
    version(made, "first", {"a": "1", "b": "1"})
    return made


def version(volume: Path, name: str, keys: dict[str, str]) -> None:
    """An update: the new version, the link replaced, the keys' links, then the old version goes."""
    before = os.readlink(volume / "..data") if (volume / "..data").is_symlink() else ""
    (volume / f"..{name}").mkdir()
    for key, value in keys.items():
        (volume / f"..{name}" / key).write_text(value)
    (volume / "..data_tmp").symlink_to(f"..{name}")
    (volume / "..data_tmp").rename(volume / "..data")
    for key in keys:
        if not (volume / key).is_symlink():
            (volume / key).symlink_to(f"..data/{key}")
    for link in volume.iterdir():
        if link.is_symlink() and not link.exists():
            link.unlink()
    if before:
        for path in (volume / before).iterdir():
            path.unlink()
        (volume / before).rmdir()


def start(copies: Copies, volume: Path, root: Path, *, followed: bool = True) -> tuple[Following, ExitStack]:
    guest, undo = Following(root), ExitStack()
    copies.send(guest, Copy(str(volume), f"{root}/volume", followed), undo)
    return guest, undo


def test_an_update_arrives_whole_and_the_old_version_goes(copies: Copies, volume: Path, tmp_path: Path) -> None:
    root = tmp_path / "guest"
    guest, undo = start(copies, volume, root)
    assert seen(volume) == seen(root / "volume")
    guest.sent.clear()
    version(volume, "second", {"b": "2", "c": "2"})
    assert guest.has(lambda: seen(volume) == seen(root / "volume"))
    names = [path for path, gone in guest.sent if not gone]
    assert names.index("..second/b") < names.index("..data") < names.index("c"), "a link comes after what it leads to"
    assert {path for path, gone in guest.sent if gone} == {"..first/a", "..first/b", "..first", "a"}
    assert "b" not in names, "a link that is the same is not sent again"
    undo.close()


def test_what_nobody_follows_stays_as_it_was(copies: Copies, volume: Path, tmp_path: Path) -> None:
    guest, _ = start(copies, volume, tmp_path / "guest", followed=False)
    followed, undo = start(copies, volume, tmp_path / "other")
    undo.close()
    again, last = start(copies, volume, tmp_path / "third")
    for one in (guest, followed):
        one.sent.clear()
    version(volume, "second", {"a": "2"})
    assert again.has(lambda: ("..second/a", False) in again.sent)
    assert guest.sent == followed.sent == []
    last.close()


def test_an_update_that_failed_is_tried_again(
    copies: Copies, volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kata.sandbox.copies.RETRY", 0.1)
    root = tmp_path / "guest"
    guest, _ = start(copies, volume, root)
    guest.refuse = True
    version(volume, "second", {"a": "2"})
    with guest.came:
        assert guest.came.wait(SOON)
        guest.refuse = False
    assert guest.has(lambda: seen(volume) == seen(root / "volume"))


def test_a_folder_that_becomes_a_file(copies: Copies, tmp_path: Path) -> None:
    (source := tmp_path / "source").mkdir()
    (source / "thing").mkdir()
    (source / "thing" / "part").write_text("x")
    root = tmp_path / "guest"
    guest, _ = start(copies, source, root)
    (source / "thing" / "part").unlink()
    (source / "thing").rmdir()
    (source / "thing").write_text("file")
    assert guest.has(lambda: seen(source) == seen(root / "volume"))


def test_the_thread_is_there_only_when_it_is_needed(copies: Copies, volume: Path, tmp_path: Path) -> None:
    before = threading.active_count()
    start(copies, volume, tmp_path / "one", followed=False)
    assert threading.active_count() == before
    start(copies, volume, tmp_path / "two")
    start(copies, volume, tmp_path / "three")
    assert threading.active_count() == before + 1
    copies.close()
    copies.close()
    assert threading.active_count() == before
    with pytest.raises(ConflictError, match="being stopped"):
        start(copies, volume, tmp_path / "four")

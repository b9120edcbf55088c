"""Watched volumes: the copy follows its source, swaps and all, and nothing planted in the copy leads out of it."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from kata.agent.storages.mirror import MAX_BYTES, MAX_ENTRIES, Mirror, TooLarge, scan
from kata.agent.storages.ownership import GroupOwner
from kata.agent.storages.watcher import Watcher


class Volume:
    """A ConfigMap volume as kubelet makes it: files in a dated folder, `..data` leads there, links beside it."""

    def __init__(self, folder: Path) -> None:
        self.source, self.target = folder / "source", folder / "target"
        self.source.mkdir()
        self.target.mkdir()
        self.number = 0
        self.mirror = Mirror(str(self.source), str(self.target))

    def publish(self, **files: str) -> None:
        self.number += 1
        dated = self.source / f"..dated-{self.number}"
        dated.mkdir()
        for name, text in files.items():
            (dated / name).write_text(text)
        (self.source / "..data_tmp").symlink_to(dated.name)
        (self.source / "..data_tmp").rename(self.source / "..data")
        for name in files:
            if not (self.source / name).is_symlink():
                (self.source / name).symlink_to(f"..data/{name}")
        for old in self.source.glob("..dated-*"):
            if old != dated:
                for path in old.iterdir():
                    path.unlink()
                old.rmdir()

    def same(self) -> bool:
        try:
            return shape(self.source) == shape(self.target)
        except FileNotFoundError:
            return False  # it is being copied just now


def shape(folder: Path) -> dict[str, tuple[int, str]]:
    found = {}
    for path in sorted(folder.rglob("*")):
        text = os.readlink(path) if path.is_symlink() else path.read_text() if path.is_file() else ""
        found[str(path.relative_to(folder))] = (path.lstat().st_mode, text)
    return found


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return Volume(tmp_path)


def test_a_config_map_is_followed(volume: Volume) -> None:
    volume.publish(a="1", b="2")
    assert volume.mirror.update() and volume.same()
    assert not volume.mirror.update(), "nothing has changed"
    volume.publish(a="new", b="2")
    assert volume.mirror.update() and volume.same()
    assert (volume.target / "a").read_text() == "new"
    assert len(list(volume.target.glob("..dated-*"))) == 1


def test_what_comes_later_belongs_to_the_group_too(volume: Volume) -> None:
    group = 4321 if os.getuid() == 0 else os.getgid()
    volume.mirror = Mirror(str(volume.source), str(volume.target), GroupOwner(group))
    for text in ("1", "2"):
        volume.publish(a=text)
        volume.mirror.update()
        info = (volume.target / "a").stat()
        assert (info.st_gid, info.st_mode & 0o777) == (group, 0o664)
    assert not volume.mirror.update(), "the group is no change of the source"


def test_modes_removals_and_changes_of_kind(volume: Volume) -> None:
    (volume.source / "file").write_text("x")
    (volume.source / "dir").mkdir(mode=0o700)
    (volume.source / "dir/inner").write_text("y")
    os.mkfifo(volume.source / "fifo")  # left out
    volume.mirror.update()
    assert not (volume.target / "fifo").exists()
    (volume.source / "fifo").unlink()
    (volume.source / "file").chmod(0o400)
    (volume.source / "dir").chmod(0o711)
    volume.mirror.update()
    assert volume.same()
    (volume.source / "dir/inner").unlink()
    (volume.source / "dir").rmdir()
    (volume.source / "dir").write_text("now a file")
    (volume.source / "file").unlink()
    (volume.source / "file").mkdir()
    (volume.source / "file/inside").write_text("z")
    volume.mirror.update()
    volume.mirror.update()
    assert volume.same()


def test_a_single_file_keeps_its_inode(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_text("one")
    target.touch()
    mirror = Mirror(str(source), str(target))
    mirror.update()
    inode = target.stat().st_ino
    (tmp_path / "next").write_text("two")
    (tmp_path / "next").rename(source)
    mirror.update()
    assert (target.read_text(), target.stat().st_ino) == ("two", inode)


def test_links_planted_in_the_copy_lead_nowhere(volume: Volume) -> None:
    outside = volume.target.parent / "outside"
    outside.mkdir()
    (outside / "file").write_text("precious")
    (volume.source / "dir").mkdir()
    (volume.source / "dir/file").write_text("1")
    (volume.source / "file").write_text("1")
    volume.mirror.update()
    (volume.target / "dir/file").unlink()
    (volume.target / "dir").rmdir()
    (volume.target / "dir").symlink_to(outside)
    (volume.target / "file").unlink()
    (volume.target / "file").symlink_to(outside / "file")
    (volume.target / ".kata-new").symlink_to(outside / "file")
    (volume.source / "dir/file").write_text("22")
    (volume.source / "file").write_text("22")
    (volume.source / "dir/more").write_text("3")
    try:
        volume.mirror.update()
    except OSError:
        pass
    assert [path.name for path in outside.iterdir()] == ["file"]
    assert (outside / "file").read_text() == "precious"


def test_limits(tmp_path: Path) -> None:
    for number in range(MAX_ENTRIES):
        (tmp_path / f"{number}").touch()
    assert len(scan(str(tmp_path))) == MAX_ENTRIES + 1
    (tmp_path / "more").touch()
    with pytest.raises(TooLarge, match="entries"):
        scan(str(tmp_path))
    scan(str(tmp_path), 2)
    (tmp_path / "more").write_bytes(bytes(MAX_BYTES + 1))
    with pytest.raises(TooLarge, match="bytes"):
        scan(f"{tmp_path}/more")


def test_readers_never_see_half_an_update(volume: Volume) -> None:
    """While the source is swapped again and again, `..data` of the copy always leads to two files that fit."""
    volume.publish(a="0", b="0")
    volume.mirror.update()
    wrong: list[str] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            before = os.readlink(volume.target / "..data")
            try:
                folder = os.open(volume.target / "..data", os.O_RDONLY | os.O_DIRECTORY)
            except FileNotFoundError:
                if os.readlink(volume.target / "..data") != before:
                    continue  # swapped, and the old tree removed, between the link and what it leads to
                wrong.append("..data leads nowhere")
                return
            texts = []
            try:
                for name in ("a", "b"):
                    with open(os.open(name, os.O_RDONLY, dir_fd=folder)) as file:
                        texts.append(file.read())
            except FileNotFoundError:
                continue  # the old tree, being removed: readers open ..data again
            finally:
                os.close(folder)
            if len(set(texts)) != 1:
                wrong.append(str(texts))

    reader = threading.Thread(target=read)
    reader.start()

    def write() -> None:
        for number in range(1, 200):
            volume.publish(a=f"{number}", b=f"{number}")

    writer = threading.Thread(target=write)
    writer.start()
    while writer.is_alive():
        try:
            volume.mirror.update()
        except FileNotFoundError:
            continue  # the source went away while it was read; the watcher tries again too
    writer.join()
    volume.mirror.update()
    done.set()
    reader.join()
    assert wrong == []
    assert volume.same()


def test_the_thread_lives_as_long_as_there_is_something_to_watch(volume: Volume) -> None:
    watcher = Watcher(interval=0.01)
    watcher.add(volume.mirror)
    thread = watcher._thread
    assert thread is not None
    volume.publish(a="1")
    deadline = time.monotonic() + 10
    while not volume.same() and time.monotonic() < deadline:
        thread.join(0.01)
    assert volume.same()
    watcher.remove(volume.mirror)
    thread.join(10)
    assert not thread.is_alive()
    volume.publish(a="2")
    assert not volume.mirror.update()

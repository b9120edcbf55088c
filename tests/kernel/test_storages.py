"""Storages on a real kernel, in a private mount namespace: what is mounted is read back from mountinfo."""

from __future__ import annotations

import os
import select
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kata.agent.devices.hotplug import Hotplug
from kata.agent.storages.context import StorageContext
from kata.agent.storages.errors import InvalidStorage, StorageError
from kata.agent.storages.table import StorageTable
from kata.agent.uevents import Uevents
from kata.linux import syscalls
from kata.linux.inotify import Inotify
from kata.linux.mounts import mount_points
from kata.protocol.generated import agent_pb2
from tests.kernel.namespaces import run_in_namespaces

pytestmark = pytest.mark.root


class Room:
    """A tmpfs of its own, with a table of storages."""

    def __init__(self, folder: Path, table: StorageTable) -> None:
        self.folder, self.table = folder, table

    def storage(self, driver: str, place: str = "m", **fields: Any) -> agent_pb2.Storage:
        return agent_pb2.Storage(driver=driver, mount_point=os.fspath(self.folder / place), **fields)

    def mounts(self) -> list[str]:
        """Names of what is mounted inside the room, in order."""
        inside = f"{self.folder}/"
        return [point.target.removeprefix(inside) for point in mount_points() if point.target.startswith(inside)]

    def options(self, place: str = "m") -> set[str]:
        """Mount and super block options by findmnt, the second opinion."""
        done = subprocess.run(
            ["findmnt", "-nro", "FSTYPE,OPTIONS", os.fspath(self.folder / place)], check=True, capture_output=True
        )
        fstype, options = done.stdout.decode().split()
        return {fstype, *options.split(",")}


def in_mountns(test: Callable[[Room], None]) -> Callable[[], None]:
    """A private mount namespace with a room; at the end nothing may be left in it."""

    def body() -> None:
        with tempfile.TemporaryDirectory() as name, Uevents() as uevents:
            folder = Path(name)
            syscalls.mount("room", name, "tmpfs")
            table = StorageTable(StorageContext(Hotplug(uevents, 0.1), run_dir=f"{name}/run"))
            room = Room(folder, table)
            test(room)
            table.release_all()
            assert room.mounts() == [] and table.mount_points == []
            syscalls.umount2(name)

    def wrapped() -> None:  # no functools.wraps: pytest would take the room for a fixture
        run_in_namespaces(body, syscalls.CLONE_NEWNS)

    wrapped.__name__ = test.__name__
    return wrapped


@contextmanager
def loop(image: Path) -> Iterator[str]:
    """A read-only loop device on an image."""
    attach = ["losetup", "--show", "-rf", os.fspath(image)]
    node = subprocess.run(attach, check=True, capture_output=True).stdout.decode().strip()
    try:
        yield node
    finally:
        subprocess.run(["losetup", "-d", node], check=True)


@in_mountns
def test_tmpfs(room: Room) -> None:
    options = ["noexec", "nosuid", "nodev", "size=1048576", "mode=1770", "fsgid=1234"]
    (place,) = room.table.add([room.storage("ephemeral", source="shm", fstype="tmpfs", options=options)], "one")
    assert {"tmpfs", "rw", "noexec", "nosuid", "nodev", "size=1024k"} <= room.options()
    info = os.stat(place)
    assert (info.st_gid, info.st_mode & 0o7777) == (1234, 0o3770)
    room.table.release("one")
    assert not os.path.exists(place)


@in_mountns
def test_ephemeral_mounts_get_another_size(room: Room) -> None:
    room.table.add([room.storage("ephemeral", fstype="tmpfs", options=["nosuid", "size=1m"])], "one")
    room.table.remount_ephemeral([room.storage("ephemeral", fstype="tmpfs", options=["rw", "size=3m"])])
    assert {"tmpfs", "rw", "nosuid", "size=3072k"} <= room.options()
    (room.folder / "m/file").write_bytes(bytes(2 << 20))
    with pytest.raises(StorageError, match="Invalid argument"):  # less than is in it
        room.table.remount_ephemeral([room.storage("ephemeral", options=["size=1m"])])
    assert "size=3072k" in room.options()


@in_mountns
def test_a_group_gets_what_is_in_a_bound_tree_but_not_what_is_mounted_in_it(room: Room) -> None:
    (room.folder / "source/inner").mkdir(parents=True)
    (room.folder / "source/file").write_text("x")
    syscalls.mount("other", f"{room.folder}/source/inner", "tmpfs", 0, "mode=700")
    group = agent_pb2.FSGroup(group_id=77)
    storage = room.storage("bind", source=f"{room.folder}/source", options=["rbind"], fs_group=group)
    (place,) = room.table.add([storage], "one")
    assert os.stat(place).st_gid == os.stat(f"{place}/file").st_gid == 77
    assert os.stat(f"{place}/inner").st_gid == 0
    room.table.release("one")
    syscalls.umount2(f"{room.folder}/source/inner")


@in_mountns
def test_a_group_gets_nothing_of_a_read_only_tree(room: Room) -> None:
    (room.folder / "source").mkdir()
    group = agent_pb2.FSGroup(group_id=77)
    room.table.add([room.storage("bind", source=f"{room.folder}/source", options=["ro"], fs_group=group)], "one")
    assert (room.folder / "source").stat().st_gid == 0


@in_mountns
def test_watched_volumes(room: Room) -> None:
    source = room.folder / "source"
    source.mkdir(mode=0o711)
    (source / "file").write_text("one")
    storages = [
        room.storage("watchable-bind", "dir", source=f"{source}", options=["ro", "nosuid"]),
        room.storage("watchable-bind", "single", source=f"{source}/file", options=["bind", "ro"]),
    ]
    room.table.add(storages, "one")
    assert room.mounts() == ["dir"] and {"tmpfs", "nosuid"} <= room.options("dir")
    assert (room.folder / "dir").stat().st_mode & 0o777 == 0o711
    with Inotify() as changes:
        changes.watch(f"{room.folder}/dir")
        (source / "file").write_text("two!")
        assert select.select([changes], [], [], 5)[0], "the container's inotify hears of it"
        changes.watch(f"{room.folder}/single")
        if (room.folder / "single").read_text() != "two!":
            assert select.select([changes], [], [], 5)[0]
    deadline = time.monotonic() + 5
    while (room.folder / "single").read_text() != "two!" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [(room.folder / name).read_text() for name in ("dir/file", "single")] == ["two!", "two!"]
    room.table.release("one")
    assert room.mounts() == [] and not (room.folder / "single").exists() and not (room.folder / "dir").exists()
    for thread in threading.enumerate():
        if thread.name == "watcher":
            thread.join(5)
            assert not thread.is_alive()


@in_mountns
def test_a_volume_too_large_to_watch_is_bound(room: Room) -> None:
    (room.folder / "source").mkdir()
    (room.folder / "source/large").write_bytes(bytes(2 << 20))
    room.table.add([room.storage("watchable-bind", source=f"{room.folder}/source", options=["ro"])], "one")
    (room.folder / "source/later").touch()
    assert (room.folder / "m/later").exists() and "ro" in room.options()


@in_mountns
def test_only_ephemeral_mounts_that_are_held_are_remounted(room: Room) -> None:
    room.table.add([room.storage("ephemeral", fstype="tmpfs", options=["size=1m"])], "one")
    room.table.add([room.storage("local", "dir")], "one")
    good = room.storage("ephemeral", fstype="tmpfs", options=["size=2m"])
    for bad in (
        room.storage("local", "dir"),
        room.storage("ephemeral", "dir"),
        room.storage("ephemeral", "none"),
        room.storage("ephemeral", fstype="hugetlbfs"),
        room.storage("virtio-fs"),
    ):
        with pytest.raises(InvalidStorage):
            room.table.remount_ephemeral([good, bad])
    assert "size=1024k" in room.options()  # nothing is done when one cannot be


@in_mountns
def test_bind_of_a_directory_read_only(room: Room) -> None:
    (room.folder / "source").mkdir()
    (room.folder / "source/file").write_text("x")
    source = os.fspath(room.folder / "source")
    (place,) = room.table.add([room.storage("bind", source=source, options=["ro", "nosuid", "rprivate"])], "one")
    assert Path(place, "file").read_text() == "x"
    assert {"ro", "nosuid"} <= room.options()
    with pytest.raises(OSError, match="Read-only"):
        Path(place, "new").touch()
    (room.folder / "source/new").touch()  # the source itself stays writable


@in_mountns
def test_bind_keeps_what_the_source_forbids(room: Room) -> None:
    room.table.add([room.storage("ephemeral", "t", fstype="tmpfs", options=["noexec", "nodev"])], "one")
    room.table.add([room.storage("bind", source=f"{room.folder}/t", options=["ro"])], "one")
    assert {"ro", "noexec", "nodev"} <= room.options()


@in_mountns
def test_bind_of_a_file(room: Room) -> None:
    (room.folder / "file").write_text("x")
    (place,) = room.table.add([room.storage("bind", "a/m", source=f"{room.folder}/file")], "one")
    assert Path(place).read_text() == "x" and room.mounts() == ["a/m"]
    room.table.release("one")
    assert not os.path.lexists(place)


@in_mountns
def test_erofs_layers_and_a_writable_overlay(room: Room) -> None:
    for layer in ("base", "top"):
        tree = room.folder / f"tree-{layer}"
        tree.mkdir()
        (tree / layer).write_text(layer)
        (tree / "both").write_text(layer)
        image = room.folder / f"{layer}.erofs"
        subprocess.run(["mkfs.erofs", os.fspath(image), os.fspath(tree)], check=True, capture_output=True)
    layers = "run/sandbox/layers"
    with loop(room.folder / "base.erofs") as base, loop(room.folder / "top.erofs") as top:
        storages = [
            room.storage("blk", f"{layers}/base", source=base, fstype="erofs", options=["ro", "nodev"]),
            room.storage("blk", f"{layers}/top", source=top, fstype="erofs", options=["ro"]),
            room.storage(
                "overlayfs",
                "root",
                source="none",
                fstype="overlay",
                options=["lowerdir=top:base", "io.katacontainers.fs-opt.overlay-rw"],
            ),
        ]
        room.table.add(storages, "one")
        assert {"erofs", "ro", "nodev"} <= room.options(f"{layers}/base")
        assert room.mounts() == [f"{layers}/base", f"{layers}/top", "root"]
        root = room.folder / "root"
        assert [(root / name).read_text() for name in ("base", "top", "both")] == ["base", "top", "top"]
        (root / "both").write_text("mine")
        assert (room.folder / "run/one/upper/both").read_text() == "mine"
        assert root.stat().st_mode & 0o7777 == 0o755
        room.table.release("one")
        assert room.mounts() == []
        assert not (room.folder / "run/one/upper").exists() and not (room.folder / "run/one/work").exists()


@in_mountns
def test_counted_by_container_and_mounted_once(room: Room) -> None:
    message = room.storage("ephemeral", fstype="tmpfs")
    room.table.add([message], "one")
    room.table.add([message], "two")
    assert room.mounts() == ["m"]
    room.table.release("one")
    assert room.mounts() == ["m"]
    room.table.release("two")
    assert room.mounts() == []


@in_mountns
def test_failure_in_the_middle_undoes_this_call(room: Room) -> None:
    kept = room.storage("ephemeral", "kept", fstype="tmpfs")
    room.table.add([kept], "one")
    good = room.storage("ephemeral", "good", fstype="tmpfs")
    for bad in (
        room.storage("ephemeral", "bad", fstype="tmpfs", options=["nonsense=1"]),
        room.storage("blk", "bad", source="/dev/null", fstype="ext4"),
        room.storage("overlayfs", "bad", options=["lowerdir=/none"]),
        room.storage("ephemeral", "bad", fstype="tmpfs", options=["x" * 5000]),
    ):
        with pytest.raises((StorageError, InvalidStorage)):
            room.table.add([kept, good, bad], "two")
        assert room.mounts() == ["kept"]
        assert not (room.folder / "good").exists() and not (room.folder / "bad").exists()


@in_mountns
def test_a_failed_writable_overlay_leaves_no_scratch(room: Room) -> None:
    bad = room.storage("overlayfs", options=["lowerdir=/none", "io.katacontainers.fs-opt.overlay-rw"])
    with pytest.raises(StorageError):
        room.table.add([bad], "one")
    assert not (room.folder / "run/one/upper").exists()


@in_mountns
def test_a_share_that_is_mounted_already_is_taken_as_it_is(room: Room) -> None:
    (room.folder / "m").mkdir()
    syscalls.mount("kataShared", f"{room.folder}/m", "tmpfs")
    # another file system type stands in for the share: there is no virtio device here
    room.table.add([room.storage("virtio-fs", source="kataShared", fstype="tmpfs")], "one")
    assert room.mounts() == ["m"]
    room.table.release("one")
    assert room.mounts() == ["m"]  # not ours to unmount
    syscalls.umount2(f"{room.folder}/m")


@in_mountns
def test_a_busy_mount_is_still_given_back(room: Room) -> None:
    (place,) = room.table.add([room.storage("ephemeral", fstype="tmpfs")], "one")
    with open(f"{place}/file", "w"):
        room.table.release("one")
    assert room.mounts() == []


@in_mountns
def test_many_containers_at_once_share_one_mount(room: Room) -> None:
    message = room.storage("ephemeral", fstype="tmpfs")
    failures: list[BaseException] = []

    def live(container_id: str) -> None:
        try:
            for _ in range(25):
                (place,) = room.table.add([message], container_id)
                assert os.path.ismount(place)
                room.table.release(container_id)
        except BaseException as error:  # noqa: BLE001 - carried to the test's thread
            failures.append(error)

    threads = [threading.Thread(target=live, args=(f"c{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    assert room.mounts() == []

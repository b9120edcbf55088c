"""Storage messages to mount requests: options, drivers, refusals."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kata.agent.devices.errors import DeviceTimeout
from kata.agent.storages import hugepages
from kata.agent.storages.context import Directory, MountRequest, StorageContext
from kata.agent.storages.errors import InvalidStorage, StorageError, UnsupportedStorage
from kata.agent.storages.hugepages import HugePages, reserve
from kata.agent.storages.registry import HANDLERS
from kata.agent.storages.table import StorageTable, validate
from kata.linux import syscalls
from kata.linux.mountoptions import CLEAR, PROPAGATION, SET, MountOptions, parse_options
from kata.protocol.generated import agent_pb2
from tests.unit.agent_devices.fakes import FakeGuest

RO, NODEV, NOEXEC = syscalls.MS_RDONLY, syscalls.MS_NODEV, syscalls.MS_NOEXEC


@pytest.fixture
def context(tmp_path: Path) -> Iterator[StorageContext]:
    with FakeGuest(tmp_path, timeout=0.05) as guest:
        yield StorageContext(guest.hotplug, run_dir=os.fspath(tmp_path / "run"))


def storage(driver: str, **fields: Any) -> agent_pb2.Storage:
    return agent_pb2.Storage(**{"driver": driver, "mount_point": "/m", **fields})


def request(context: StorageContext, message: agent_pb2.Storage, container_id: str = "c1") -> MountRequest:
    return HANDLERS[message.driver](message, context, container_id)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], MountOptions()),
        (["ro", "nodev"], MountOptions(RO | NODEV)),
        (["ro", "rw"], MountOptions()),
        (["rw", "ro"], MountOptions(RO)),
        (["noexec", "exec", "size=1m", "mode=1777"], MountOptions(0, 0, "size=1m,mode=1777")),
        (["defaults", "nofail", "x-systemd.automount", "X-kata.overlay-upper", ""], MountOptions()),
        (["io.katacontainers.fs-opt.layer=abc", "dax"], MountOptions(0, 0, "dax")),
        (["rbind", "rslave", "slave"], MountOptions(0x5000, syscalls.MS_SLAVE)),
        (["a=b=c", 'context="x,y"'], MountOptions(0, 0, 'a=b=c,context="x,y"')),
    ],
)
def test_options(words: list[str], expected: MountOptions) -> None:
    assert parse_options(words) == expected


def test_every_word_has_one_meaning() -> None:
    words = [*SET, *CLEAR, *PROPAGATION]
    assert len(words) == len(set(words))
    for word, flag in CLEAR.items():
        assert parse_options([word]).flags == 0
        assert flag in SET.values()


def test_shares(context: StorageContext) -> None:
    message = storage("virtio-fs", source="kataShared", fstype="virtiofs", options=["nodev"])
    assert request(context, message) == MountRequest(Directory("/m"), "kataShared", "virtiofs", NODEV, premounted=True)
    nine = request(context, storage("9p", source="kataShared", options=["trans=virtio", "nodev", "msize=8192"]))
    assert (nine.fstype, nine.flags, nine.data) == ("9p", NODEV, "trans=virtio,msize=8192")


def test_disks(context: StorageContext, tmp_path: Path) -> None:
    folder = tmp_path / "sys/devices/pci0000:00/0000:00:02.0/virtio1/block/vda"
    folder.mkdir(parents=True)
    (tmp_path / "dev/vda").touch()
    message = storage("blk", source="02", fstype="erofs", options=["ro"])
    assert request(context, message) == MountRequest(Directory("/m"), f"{tmp_path}/dev/vda", "erofs", RO)
    with pytest.raises(DeviceTimeout):
        request(context, storage("blk", source="03", fstype="erofs"))
    with pytest.raises(InvalidStorage, match="which file system"):
        request(context, storage("blk", source="02"))
    with pytest.raises(InvalidStorage, match="is no disk"):
        request(context, storage("blk", source="/dev/null", fstype="ext4"))
    with pytest.raises(InvalidStorage, match="does not exist"):
        request(context, storage("blk", source="/dev/none", fstype="ext4"))


def test_ephemeral(context: StorageContext) -> None:
    message = storage("ephemeral", source="shm", fstype="tmpfs", options=["noexec", "size=64m", "fsgid=7"])
    assert request(context, message) == MountRequest(Directory("/m"), "shm", "tmpfs", NOEXEC, data="size=64m", gid=7)
    with pytest.raises(UnsupportedStorage, match="ramfs"):
        request(context, storage("ephemeral", fstype="ramfs"))


def test_huge_pages(context: StorageContext, tmp_path: Path) -> None:
    pool = tmp_path / "sys/kernel/mm/hugepages/hugepages-2048kB"
    pool.mkdir(parents=True)
    guest = context._replace(sysfs=f"{tmp_path}/sys")
    sizes = ["pagesize=2097152", "size=8388608"]
    made = request(guest, storage("ephemeral", fstype="hugetlbfs", source="nodev", options=[*sizes, "fsgid=9"]))
    assert (made.fstype, made.data, made.gid) == ("hugetlbfs", ",".join(sizes), 9)
    assert made.pages == HugePages(f"{pool}", 4)
    for bad in (["size=8"], sizes[:1], ["pagesize=0", "size=1"], ["pagesize=2M", "size=4M"], [sizes[0], "size=3"]):
        with pytest.raises(InvalidStorage):
            request(guest, storage("ephemeral", fstype="hugetlbfs", options=bad))
    with pytest.raises(UnsupportedStorage, match="no huge pages of 4096"):
        request(guest, storage("ephemeral", fstype="hugetlbfs", options=["pagesize=4096", "size=4096"]))


def test_huge_pages_are_added_and_given_back(tmp_path: Path) -> None:
    (tmp_path / "nr_hugepages").write_text("0000000003")
    pages = HugePages(str(tmp_path), 40)
    reserve(pages)
    assert int((tmp_path / "nr_hugepages").read_text()[:2]) == 43


class Stingy:
    """A kernel that has fewer pages than are asked for."""

    def __init__(self, limit: int) -> None:
        self.limit, self.count = limit, 1

    def read(self, path: str) -> str:
        return f"{self.count}\n"

    def write(self, path: str, text: str) -> None:
        self.count = min(int(text), self.limit)


def test_too_few_huge_pages_are_an_error_and_none_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Stingy(5)
    monkeypatch.setattr(hugepages, "read_text", kernel.read)
    monkeypatch.setattr(hugepages, "write_text", kernel.write)
    with pytest.raises(StorageError, match="only 4 of 6"):
        reserve(HugePages("pool", 6))
    assert kernel.count == 1
    reserve(HugePages("pool", 4))
    assert kernel.count == 5
    hugepages.give_back(HugePages("pool", 4))
    assert kernel.count == 1


@pytest.mark.parametrize("group", ["", "-1", "x", "4294967295", "1 2", "٣"])
def test_bad_groups(context: StorageContext, group: str) -> None:
    with pytest.raises(InvalidStorage, match="no group id"):
        request(context, storage("ephemeral", options=[f"fsgid={group}"]))


def test_local(context: StorageContext) -> None:
    assert request(context, storage("local")) == MountRequest(Directory("/m"), mounted=False)
    assert request(context, storage("local", options=["mode=0777", "fsgid=5"])).target == Directory("/m", 0o2777, 5)
    for mode in ("", "8", "-1", "10000", "rwx"):
        with pytest.raises(InvalidStorage, match="octal"):
            request(context, storage("local", options=[f"mode={mode}"]))


def test_overlay(context: StorageContext) -> None:
    run = context.run_dir
    message = storage(
        "overlayfs",
        options=["lowerdir=a:/abs/b", "io.katacontainers.fs-opt.overlay-rw", "ro", "rw"],
        driver_options=["io.katacontainers.volume.overlayfs.create_directory=/made/first"],
    )
    made = request(context, message)
    upper, work = f"{run}/c1/upper", f"{run}/c1/work"
    assert made.data == f"lowerdir={run}/sandbox/layers/a:/abs/b,upperdir={upper},workdir={work}"
    assert made.directories == (Directory("/made/first"), Directory(upper), Directory(work, 0o700))
    assert made.scratch == (upper, work)
    assert (made.fstype, made.flags) == ("overlay", 0)
    plain = request(context, storage("overlayfs", source="none", options=["lowerdir=/a:/b"]))
    assert (plain.source, plain.data, plain.scratch) == ("none", "lowerdir=/a:/b", ())
    for bad in ("", ".", "..", "a/b"):
        with pytest.raises(InvalidStorage, match="no container id"):
            request(context, message, bad)
    with pytest.raises(InvalidStorage, match="absolute"):
        relative = "io.katacontainers.volume.overlayfs.create_directory=x"
        request(context, storage("overlayfs", driver_options=[relative]))


def test_bind_needs_its_source(context: StorageContext, tmp_path: Path) -> None:
    with pytest.raises(InvalidStorage, match="does not exist"):
        request(context, storage("bind", source=f"{tmp_path}/none"))
    made = request(context, storage("bind", source=f"{tmp_path}", options=["ro"]))
    assert made.flags == syscalls.MS_BIND | RO


@pytest.mark.parametrize(
    ("fields", "error", "sentence"),
    [
        ({"driver": ""}, InvalidStorage, "Unknown storage driver"),
        ({"driver": "nope"}, InvalidStorage, "Unknown storage driver 'nope'"),
        ({"mount_point": "relative"}, InvalidStorage, "no absolute path"),
        ({"mount_point": ""}, InvalidStorage, "no absolute path"),
        ({"fs_group": agent_pb2.FSGroup(group_id=0xFFFFFFFF)}, InvalidStorage, "fs_group"),
        ({"driver_options": ["encryption_key=ephemeral"]}, UnsupportedStorage, "encryption_key"),
        ({"driver": "erofs.multi-layer"}, UnsupportedStorage, "each layer as a disk"),
        ({"driver": "image_guest_pull"}, UnsupportedStorage, "data hub"),
        ({"options": ["X-kata.dmverity.roothash=00"]}, UnsupportedStorage, "X-kata.dmverity.roothash"),
        ({"driver_options": ["create_filesystem"]}, UnsupportedStorage, "create_filesystem"),
    ],
)
def test_refused_messages(fields: dict[str, Any], error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        validate(agent_pb2.Storage(**{"driver": "local", "mount_point": "/m", **fields}))


# Section: the table, with directories only (no mount needs root here)


def local(path: Path, **fields: Any) -> agent_pb2.Storage:
    return storage("local", mount_point=os.fspath(path), **fields)


def test_directories_are_counted(context: StorageContext, tmp_path: Path) -> None:
    table, place = StorageTable(context), tmp_path / "a"
    assert table.add([local(place), local(place)], "one") == [f"{place}"] * 2
    table.add([local(place)], "two")
    table.release("one")
    assert place.is_dir()
    table.release("two")
    assert not place.exists() and table.mount_points == []
    table.release("two")  # nothing is left to do


def test_a_directory_with_content_stays(context: StorageContext, tmp_path: Path) -> None:
    table, place = StorageTable(context), tmp_path / "a"
    table.add([local(place)], "one")
    (place / "file").touch()
    table.release("one")
    assert (place / "file").exists() and table.mount_points == []


def test_modes_are_exact(context: StorageContext, tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        StorageTable(context).add([local(tmp_path / "a", options=["mode=0777"])], "one")
    finally:
        os.umask(old)
    assert (tmp_path / "a").stat().st_mode & 0o7777 == 0o777


def test_shared_ones_stay_until_the_end(context: StorageContext, tmp_path: Path) -> None:
    table, place = StorageTable(context), tmp_path / "a"
    table.add([local(place, shared=True)], "one")
    table.release("one")
    assert place.is_dir()
    table.release_all()
    assert not place.exists() and table.mount_points == []


def test_failure_undoes_this_call_only(context: StorageContext, tmp_path: Path) -> None:
    table, kept, new = StorageTable(context), tmp_path / "kept", tmp_path / "new"
    table.add([local(kept)], "one")
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(StorageError):
        table.add([local(kept), local(new), local(blocked)], "two")
    assert kept.is_dir() and not new.exists()
    assert table.mount_points == [f"{kept}"]
    with pytest.raises(InvalidStorage):  # found before anything is done
        table.add([local(new), storage("nope")], "two")
    assert not new.exists()
    table.release("two")
    assert kept.is_dir()


def test_one_mount_point_is_one_storage(context: StorageContext, tmp_path: Path) -> None:
    table = StorageTable(context)
    table.add([local(tmp_path / "a")], "one")
    with pytest.raises(InvalidStorage, match="holds another storage"):
        table.add([local(tmp_path / "a", source="other")], "two")
    assert table.mount_points == [f"{tmp_path}/a"]


def test_a_link_is_no_mount_point(context: StorageContext, tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(StorageError, match="symbolic link"):
        StorageTable(context).add([local(tmp_path / "link")], "one")

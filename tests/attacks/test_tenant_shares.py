"""Paths of the host that a specification names: what no guest may have is not shared, copied or plugged in."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, cast

import pytest

from kata import paths
from kata.errors import KataError
from kata.hypervisor.errors import HypervisorError
from kata.hypervisor.machine import Disk
from kata.hypervisor.qemu.files import open_disk
from kata.linux import mounts, process
from kata.protocol.generated import agent_pb2
from kata.protocol.generated.host import mount_pb2
from kata.sandbox.copying import Copier
from kata.sandbox.disks import Disks, empty_dir_plug
from kata.sandbox.updates import Copy, Facilities
from kata.sandbox.volumes import plan_mounts
from kata.shim.rootfs import RootfsError, mount_rootfs
from kata.storage import emptydirs
from kata.storage.errors import VolumeError
from kata.storage.share import Share

pytestmark = pytest.mark.root

KERNELS_OWN = (
    *("/proc", "/proc/", "//proc", "/./proc", "/proc/sys/kernel", "/sys", "/sys/fs/cgroup", "/dev", "/dev/pts"),
    *("/proc/self/fdinfo", "/proc/sysrq-trigger", "/sys/kernel/debug"),
)


@pytest.fixture
def share(tmp_path: Path) -> Iterator[Share]:
    """A share's tree without a daemon; nothing of it stays."""
    (tmp_path / "vm").mkdir(0o700)
    made = Share(tmp_path / "vm")
    made.make_tree()
    try:
        yield made
        assert os.listdir(made.tree) == []
    finally:
        made.close()


class NoReceiver:
    """An agent that gets nothing."""

    def copy_file(self, piece: agent_pb2.CopyFileRequest) -> None:
        pytest.fail(f"{piece.path} was sent to the guest")


def refused(share: Share, path: str) -> None:
    """Neither shared nor copied."""
    for readonly in (True, False):
        with pytest.raises(VolumeError):
            share.add("volume", path, readonly=readonly)
    with pytest.raises(KataError):
        Copier(NoReceiver(), Copy(path, "/run/kata-containers/shared/containers/x")).run()


@pytest.mark.parametrize("path", [path for path in KERNELS_OWN if os.path.exists(path)])
def test_the_host_kernels_file_systems(path: str, share: Share) -> None:
    """A mount of /proc means the guest's own; by no other name is the host's shared."""
    has = Facilities(share=True, shm=True)
    mount = {"source": path, "destination": "/x", "type": "bind", "options": ["rbind", "rw"]}
    updates = plan_mounts("box", [cast("Any", mount)], has)
    assert all(update.share is None for update in updates) or path.startswith("//")
    refused(share, path)


def test_links_to_the_host_kernels_file_systems(share: Share, tmp_path: Path) -> None:
    """What a tenant puts into a folder that it may write to, and then asks for as a volume."""
    for name, target in (("p", "/proc"), ("s", "/proc/sys"), ("d", "/dev"), ("c", "/sys/fs/cgroup"), ("pp", "p")):
        (tmp_path / name).symlink_to(target)
        has = Facilities(share=True, shm=True)
        mount = {"source": str(tmp_path / name), "destination": "/x", "type": "bind", "options": ["rbind"]}
        with suppress(KataError):
            for update in plan_mounts("box", [cast("Any", mount)], has):
                assert update.share is not None
                refused(share, update.share.path)
        refused(share, str(tmp_path / name))


def test_the_same_by_another_mount(share: Share, tmp_path: Path) -> None:
    place = tmp_path / "elsewhere"
    place.mkdir()
    for command in (["mount", "-t", "proc", "proc"], ["mount", "--bind", "/proc/sys"], ["mount", "-t", "sysfs", "s"]):
        subprocess.run([*command, str(place)], check=True)
        try:
            refused(share, str(place))
        finally:
            subprocess.run(["umount", str(place)], check=True)


def test_our_own_state(share: Share, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Templates, images and sockets: whoever may write to them has every sandbox of the host."""
    monkeypatch.setenv("KATA_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("KATA_DATA_DIR", str(tmp_path / "data"))
    for folder in (paths.templates_dir(), paths.images_dir(), paths.sandboxes_dir() / "other", paths.vm_dir()):
        folder.mkdir(parents=True)
        (folder / "file").touch()
        (tmp_path / "link").symlink_to(folder)
        for path in (folder, folder / "file", tmp_path / "link", tmp_path / "link/file", folder / "../", folder / ".."):
            refused(share, str(path))
        (tmp_path / "link").unlink()
    (tmp_path / "database").mkdir()  # begins like it
    share.add("volume", str(tmp_path / "database"), readonly=True)
    share.remove("volume")


def test_what_is_neither_file_nor_folder(share: Share, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "sock"))
        (tmp_path / "link").symlink_to(tmp_path / "sock")
        (tmp_path / "loop").symlink_to(tmp_path / "loop")
        for name in ("fifo", "sock", "link", "loop", "missing"):
            with pytest.raises(VolumeError):
                share.add("volume", str(tmp_path / name), readonly=False)


# CVE-2026-24054: what is a container's root file system


@pytest.mark.parametrize(
    "root",
    [
        *("/", "//", "/.", "/proc/1/root", "/etc/..", "..", "../..", "../../../../../../..", "rootfs/../../.."),
        *("/dev/sda", "/dev/zero", "/dev/null", "/proc", "", ".", "missing", "file", "empty", "fifo", "to-root"),
        *("to-host", "to-device", "x" * 5000, "to-loop"),
    ],
)
def test_cve_2026_24054_roots_that_are_none(root: str, tmp_path: Path) -> None:
    """An empty or missing root became the host's; so did one that a bundle's link leads to."""
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "file").write_text("x")
    (bundle / "empty").mkdir()
    os.mkfifo(bundle / "fifo")
    for name, target in (("to-root", "/"), ("to-host", tmp_path), ("to-device", "/dev/sda"), ("to-loop", "to-loop")):
        (bundle / name).symlink_to(target)
    (bundle / "rootfs").symlink_to("/")
    if root == "/proc":  # which is shared no more than as any other volume
        (tmp_path / "vm").mkdir()
        with pytest.raises(VolumeError, match="host's kernel"):
            Share(tmp_path / "vm").add("box/rootfs", mount_rootfs(str(bundle), [], root), readonly=False)
        return
    with pytest.raises(RootfsError) as caught:
        mount_rootfs(str(bundle), [], root)
    assert caught.value.hint


def test_cve_2026_24054_a_root_of_its_own_is_taken(tmp_path: Path) -> None:
    for root in ("rootfs", str(tmp_path / "elsewhere")):
        (tmp_path / "bundle").mkdir(exist_ok=True)
        place = Path(os.path.join(tmp_path, "bundle", root))
        place.mkdir()
        (place / "bin").mkdir()
        assert mount_rootfs(str(tmp_path / "bundle"), [], root) == str(place)


@pytest.mark.parametrize("source", ["/", "/dev/sda", "/run", "missing", ""])
def test_cve_2026_24054_nor_is_the_hosts_root_mounted_as_one(source: str, tmp_path: Path) -> None:
    bundle = Path("/run") / f"kata-attack-{os.getpid()}"
    bundle.mkdir()
    try:
        with pytest.raises(RootfsError):
            mount_rootfs(str(bundle), [mount_pb2.Mount(type="bind", source=source, options=["rbind", "rw"])])
        assert not [point for point in mounts.mount_points() if point.target.startswith(str(bundle))]
    finally:
        mounts.unmount_below(str(bundle))
        subprocess.run(["rm", "-rf", "--one-file-system", str(bundle)], check=True)


# An emptyDir that is a disk, and a container that has its folder by a subPath


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file of the host's, which stands for a disk."""
    path = tmp_path / "victim"
    path.write_bytes(b"host" * 4096)
    return path


@pytest.mark.parametrize("program", ["mkfs.ext4", "debugfs"])
@pytest.mark.parametrize("kind", ["link", "file", "pipe"])
def test_an_empty_dir_that_is_swapped_while_it_is_formatted(
    program: str, kind: str, victim: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither does a program of ours write elsewhere, nor does a guest get what was put there."""
    (folder := tmp_path / "scratch").mkdir()
    image = folder / "disk.img"
    run = process.run

    def swap(argv: list[str], **options: Any) -> Any:
        if argv[0] == program:
            image.unlink()
            if kind == "link":
                image.symlink_to(victim)
            elif kind == "pipe":
                os.mkfifo(image)
            else:
                image.write_bytes(b"another")
        return run(argv, **options)

    monkeypatch.setattr(emptydirs, "run", swap)
    made = emptydirs.make_image(tmp_path / "vm", str(folder))
    assert victim.read_bytes() == b"host" * 4096
    with ExitStack() as stack, pytest.raises(HypervisorError, match="replaced"):
        open_disk(Disk(str(image), "serial", readonly=False, identity=made), stack)


class Opener:
    """A machine that opens the disks that it is given, as QEMU's does."""

    def __init__(self) -> None:
        self.opened: list[bytes] = []

    def add_disk(self, disk: Disk) -> Any:
        with ExitStack() as stack:
            self.opened.append(os.pread(open_disk(disk, stack), 4, 0))

    def remove_disk(self, serial: str) -> None:
        """Nothing to do."""

    def resize_disk(self, serial: str, size: int) -> None:
        """Nothing to do."""


def test_an_empty_dir_that_is_swapped_before_it_is_used_again(
    victim: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One container of the pod ends, another has the folder by a subPath, and a third one starts."""
    monkeypatch.setenv("KATA_STATE_DIR", str(tmp_path / "state"))
    (folder := tmp_path / "scratch").mkdir()
    (paths.vm_dir() / "box").mkdir(parents=True)
    machine = Opener()
    disks = Disks("box", machine, ("blk",))
    plug = empty_dir_plug(str(folder))
    disks.acquire(plug)
    disks.release(plug.serial)
    for target in (victim, Path("/dev/zero"), tmp_path / "missing"):
        (folder / "disk.img").unlink()
        (folder / "disk.img").symlink_to(target)
        with pytest.raises(VolumeError, match="no disk can be made"):
            disks.acquire(plug)
    disks.close()
    assert machine.opened == [bytes(4)]
    assert victim.read_bytes() == b"host" * 4096, "what is removed is the image, not what a link leads to"

"""Volumes of a sandbox that shares nothing: disks that come, grow and go with their users, copies that follow the host.

One VM for the module.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from kata.errors import KataError
from kata.images.store import ImageStore
from kata.log import Logger
from kata.oci.spec import Mount, Spec
from kata.osbuilder import ensure_assets
from kata.sandbox import spec as specs
from kata.sandbox.config import ContainerConfig, GuestAssets, PluggedRootfs, SandboxConfig, SharedMount
from kata.sandbox.container import Container
from kata.sandbox.errors import NotFoundError
from kata.sandbox.sandbox import Sandbox
from kata.sandbox.stdio import Streams
from kata.storage import directvolumes

pytestmark = [pytest.mark.vm, pytest.mark.root]

MIB = 1 << 20
SANDBOX_ID = "volumes-of-a-sandbox"
EXIT_TIMEOUT = 60.0


@pytest.fixture(scope="module")
def kubelet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kubelet's folder, with one pod's volumes."""
    return tmp_path_factory.mktemp("kubelet")


@pytest.fixture(scope="module")
def sandbox(busybox: str, kubelet: Path) -> Iterator[Sandbox]:
    """A running sandbox that shares nothing: one root port, and SCSI for what finds no place in it."""
    found = ensure_assets(lambda _: None)
    config = SandboxConfig(
        id=SANDBOX_ID,
        hostname="volumes",
        assets=GuestAssets(found.kernel, found.initrd, found.image),
        network="none",
        disk_drivers=("blk", "scsi"),
        root_ports=1,
        kubelet_root=str(kubelet),
        empty_dir_disks=True,
        shared_mounts=(SharedMount("t", "source", "/tmp/out", "taker", "/in"),),
    )
    made = Sandbox(config, Logger(os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)))
    made.start()
    yield made
    made.stop()


@pytest.fixture
def image(busybox: str) -> Iterator[str]:
    """The busybox image as an erofs file."""
    store = ImageStore()
    with store.rootfs(store.get(busybox), lambda _: None) as rootfs:
        yield str(rootfs.path)


def ext4(path: Path, tree: Path | None = None) -> Path:
    with path.open("wb") as file:
        file.truncate(32 * MIB)
    populated = ["-d", str(tree)] if tree else []
    subprocess.run(["mkfs.ext4", "-q", "-F", *populated, str(path)], check=True)
    return path


def config(name: str, rootfs: PluggedRootfs, *mounts: Mount) -> ContainerConfig:
    process = specs.ProcessOptions(args=("sleep", "10000"), env=(specs.DEFAULT_PATH,))
    made = specs.container(specs.ContainerOptions(id=name, process=process, hostname="volumes"))
    full: Spec = {**made, "mounts": [*made["mounts"], *mounts]}
    return ContainerConfig(id=name, spec=cast("dict[str, object]", full), rootfs=rootfs)


def run(container: Container, script: str) -> int:
    """The exit code of a shell's script in the container."""
    process = specs.process(specs.ProcessOptions(args=("sh", "-c", script), env=(specs.DEFAULT_PATH,)))
    return container.exec(os.urandom(4).hex(), process, Streams()).wait(EXIT_TIMEOUT) or 0


def test_a_direct_volume_from_its_first_user_to_its_last(sandbox: Sandbox, image: str, tmp_path: Path) -> None:
    disk, published = ext4(tmp_path / "disk.img"), str(tmp_path / "published")
    record = {"volume-type": "block", "device": str(disk), "fstype": "ext4", "metadata": {}, "options": ["noatime"]}
    directvolumes.add(published, json.dumps(record).encode())
    mount: Mount = {"destination": "/data", "type": "bind", "source": published, "options": ["rbind", "rw"]}
    rootfs = PluggedRootfs(image, "erofs", ("ro",))
    with pytest.raises(NotFoundError, match="no container of this sandbox"):
        sandbox.volume_stats(published)
    first = sandbox.create_container(config("first", rootfs, mount))
    second = sandbox.create_container(config("second", rootfs, mount))
    for container in (first, second):
        container.start(lambda _: None)
    assert directvolumes.sandboxes(published) == [SANDBOX_ID]

    assert (
        run(first, "dd if=/dev/zero of=/data/zeros bs=1M count=8 && sync && grep ' /data .*noatime' /proc/mounts") == 0
    )
    usage = sandbox.volume_stats(published).usage[0]
    assert 8 * MIB <= usage.used < 16 * MIB and 20 * MIB < usage.total <= 32 * MIB
    sandbox.resize_volume(published, 64 * MIB)
    assert disk.stat().st_size == 64 * MIB
    assert 50 * MIB < sandbox.volume_stats(published).usage[0].total <= 64 * MIB
    assert run(second, "[ $(stat -c %s /data/zeros) = 8388608 ]") == 0
    sandbox.resize_volume(published, 16 * MIB)  # never smaller
    assert disk.stat().st_size == 64 * MIB

    sandbox.remove_container("first")
    assert directvolumes.sandboxes(published) == [SANDBOX_ID]
    sandbox.remove_container("second")
    assert directvolumes.sandboxes(published) == []
    directvolumes.remove(published)
    subprocess.run(["e2fsck", "-fn", str(disk)], check=True, capture_output=True)
    assert sandbox._disks is not None
    assert sandbox._disks._entries == {}


def test_a_snapshot_that_is_a_disk_is_written_to(sandbox: Sandbox, tmp_path: Path) -> None:
    (tree := tmp_path / "tree" / "bin").mkdir(parents=True)
    (tree / "busybox").write_bytes(Path("/bin/busybox").read_bytes())
    (tree / "busybox").chmod(0o755)
    for name in ("sh", "sleep", "sync"):
        (tree / name).symlink_to("busybox")
    disk = ext4(tmp_path / "snapshot.img", tmp_path / "tree")
    written = PluggedRootfs(str(disk), "ext4", readonly=False, layered=False)
    container = sandbox.create_container(config("writer", written))
    container.start(lambda _: None)
    assert run(container, "echo kept > /new; sync") == 0
    sandbox.remove_container("writer")
    kept = subprocess.run(["debugfs", "-R", "cat /new", str(disk)], check=True, capture_output=True)
    assert kept.stdout == b"kept\n"


def test_a_failed_container_leaves_no_disk(sandbox: Sandbox, image: str, tmp_path: Path) -> None:
    disk, published = ext4(tmp_path / "disk.img"), str(tmp_path / "published")
    record = {"volume-type": "block", "device": str(disk), "fstype": "erofs"}  # it is ext4
    directvolumes.add(published, json.dumps(record).encode())
    mount: Mount = {"destination": "/data", "type": "bind", "source": published, "options": ["rbind"]}
    with pytest.raises(KataError, match="mount"):
        sandbox.create_container(config("broken", PluggedRootfs(image, "erofs", ("ro",)), mount))
    assert directvolumes.sandboxes(published) == []
    assert sandbox._disks is not None
    assert sandbox._disks._entries == {}
    directvolumes.remove(published)


def volume(kubelet: Path, kind: str) -> Path:
    path = kubelet / "pods/0123/volumes" / f"kubernetes.io~{kind}" / "name"
    path.mkdir(parents=True)
    return path


def start(sandbox: Sandbox, made: ContainerConfig) -> Container:
    container = sandbox.create_container(made)
    container.start(lambda _: None)
    return container


def test_an_empty_directory_is_a_disk_of_the_pod(sandbox: Sandbox, image: str, kubelet: Path) -> None:
    folder, rootfs = volume(kubelet, "empty-dir"), PluggedRootfs(image, "erofs", ("ro",))
    folder.chmod(0o2777)
    mount: Mount = {"destination": "/scratch", "type": "bind", "source": str(folder), "options": ["rbind", "rw"]}
    first, second = (start(sandbox, config(name, rootfs, mount)) for name in ("writer1", "reader1"))
    like = '[ $(stat -c %a:%u:%g /scratch) = 2777:0:0 ] && [ -z "$(ls -A /scratch)" ]'
    assert run(first, f"{like} && grep ' /scratch ext4 ' /proc/mounts && echo kept > /scratch/file") == 0
    assert run(second, "[ $(cat /scratch/file) = kept ] && dd if=/dev/urandom of=/scratch/big bs=1M count=24") == 0
    assert run(first, "sync") == 0
    used = (folder / "disk.img").stat().st_blocks * 512
    assert used > 24 * MIB, "the kubelet counts what is in it"
    assert run(second, "rm /scratch/big && sync") == 0
    assert (folder / "disk.img").stat().st_blocks * 512 < used - 16 * MIB, "what is freed the host has again"
    for name in ("writer1", "reader1"):
        sandbox.remove_container(name)
    again = start(sandbox, config("again", rootfs, mount))
    assert run(again, "[ $(cat /scratch/file) = kept ]") == 0, "it ends with the pod, not with a container"
    sandbox.remove_container("again")


def test_a_secret_follows_the_host_and_ends_with_its_container(sandbox: Sandbox, image: str, kubelet: Path) -> None:
    folder = volume(kubelet, "secret")
    (folder / "..1").mkdir()
    for key in ("key", "old"):
        (folder / "..1" / key).write_text("one")
        (folder / key).symlink_to(f"..data/{key}")
    (folder / "..data").symlink_to("..1")
    mount: Mount = {"destination": "/secret", "type": "bind", "source": str(folder), "options": ["rbind", "ro"]}
    container = start(sandbox, config("follower", PluggedRootfs(image, "erofs", ("ro",)), mount))
    assert run(container, "[ $(cat /secret/key /secret/old) = oneone ]") == 0

    (folder / "..2").mkdir()
    (folder / "..2" / "key").write_text("two")
    (folder / "..next").symlink_to("..2")
    (folder / "..next").rename(folder / "..data")
    (folder / "old").unlink()
    for key in ("key", "old"):
        (folder / "..1" / key).unlink()
    (folder / "..1").rmdir()
    seen = 'until [ "$(cat /secret/key)$(ls -A /secret | tr -d "\\n")" = two..2..datakey ]; do usleep 100000; done'
    begin = time.monotonic()
    assert run(container, seen) == 0
    print(f"an update arrived within {time.monotonic() - begin:.2f} s")
    sandbox.remove_container("follower")
    assert sandbox._copies._followed == []


def test_a_folder_of_one_container_is_seen_in_another(sandbox: Sandbox, image: str) -> None:
    rootfs = PluggedRootfs(image, "erofs", ("ro",))
    source = start(sandbox, config("source", rootfs))
    assert run(source, "mkdir -p /tmp/out && echo from-source > /tmp/out/file") == 0
    taker = start(sandbox, config("taker", rootfs))
    assert run(taker, "[ $(cat /in/file) = from-source ]") == 0
    for name in ("taker", "source"):
        sandbox.remove_container(name)


def test_the_end_leaves_no_image_and_no_thread(sandbox: Sandbox, kubelet: Path) -> None:
    assert list(kubelet.rglob("disk.img")) != []
    sandbox.stop()
    assert list(kubelet.rglob("disk.img")) == []
    assert not [thread for thread in threading.enumerate() if thread.name == "copies"]

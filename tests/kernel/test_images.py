"""Root filesystems from images, with the real umoci and mkfs.erofs, mounted by the real kernel."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kata.images.errors import ImageError, ImageNotFoundError, MalformedImageError, NoSpaceError, WrongPlatformError
from kata.images.rootfs import Rootfs, VolumeFolder
from kata.images.store import ImageStore
from kata.images.users import ResolvedUser, resolve_user
from tests.unit.images import crafted
from tests.unit.images.crafted import entry, tar

pytestmark = pytest.mark.root

CAPABILITY = "\x01\x00\x00\x02\x00\x20" + "\x00" * 14
"""vfs_cap_data, revision 2: cap_net_raw, permitted and effective."""


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "store")


@contextmanager
def mounted(rootfs: Rootfs, place: Path) -> Iterator[Path]:
    place.mkdir()
    subprocess.run(["mount", "-t", "erofs", "-o", "ro,loop", str(rootfs.path), str(place)], check=True, timeout=30)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True, timeout=30)


def scratch(store: ImageStore) -> list[str]:
    return [file.name for file in store.work.iterdir() if file.name != ".lock"]


def test_what_the_image_says_is_what_the_guest_gets(store: ImageStore, tmp_path: Path) -> None:
    lower = tar(
        entry("etc/passwd", crafted.PASSWD, mtime=1_000_000_000),
        entry("etc/group", b"root:x:0:\nextra:x:7:web\n"),
        entry("gone", b"x"),
        entry("dir/below", b"x"),
    )
    headers = {"SCHILY.xattr.user.colour": "blue", "SCHILY.xattr.security.capability": CAPABILITY}
    upper = tar(
        entry("suid", b"s", mode=0o4755, uid=1234, gid=70000, pax_headers=headers),
        entry("link", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        entry("hard", type=tarfile.LNKTYPE, linkname="suid"),
        entry("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
        entry("disk", type=tarfile.BLKTYPE, devmajor=8, devminor=0, mode=0o600),
        entry("pipe", type=tarfile.FIFOTYPE, mode=0o600),
        entry(".wh.gone"),
        entry("dir/.wh..wh..opq"),
        entry("dir/new", b"n"),
    )
    crafted.image(tmp_path / "l", lower, upper)
    image = store.import_(str(tmp_path / "l"), "x")
    with store.rootfs(image) as rootfs, mounted(rootfs, tmp_path / "m") as root:
        assert resolve_user("web", rootfs.passwd, rootfs.group) == ResolvedUser(33, 33, (7,), "/var/www", "web")
        assert sorted(os.listdir(root)) == ["dir", "disk", "etc", "hard", "link", "null", "pipe", "suid"]
        assert os.listdir(root / "dir") == ["new"]
        info = (root / "suid").stat()
        assert (info.st_mode, info.st_uid, info.st_gid, info.st_nlink) == (stat.S_IFREG | 0o4755, 1234, 70000, 2)
        assert os.getxattr(root / "suid", "user.colour") == b"blue"
        assert os.getxattr(root / "suid", "security.capability") == CAPABILITY.encode("latin-1")
        assert os.readlink(root / "link") == "/etc/passwd"
        assert (root / "null").stat().st_rdev == os.makedev(1, 3)
        assert stat.S_ISBLK((root / "disk").stat().st_mode)
        assert stat.S_ISFIFO((root / "pipe").stat().st_mode)
        assert (root / "etc/passwd").stat().st_mtime == 1_000_000_000
    assert scratch(store) == []


def test_the_cache_is_used_private_and_removed(store: ImageStore, tmp_path: Path) -> None:
    crafted.small(tmp_path / "l")
    image = store.import_(str(tmp_path / "l"), "x")
    steps: list[str] = []
    with store.rootfs(image, steps.append) as first:
        told = len(steps)
        inode = os.fstat(first.fd).st_ino
        with store.rootfs(image, steps.append) as second:
            assert os.fstat(second.fd).st_ino == inode
            assert second.passwd == first.passwd == crafted.PASSWD.decode()
        assert len(steps) == told > 0
        assert stat.S_IMODE(os.fstat(first.fd).st_mode) == 0o600
        store.remove("x")
        assert list(store.caches.iterdir()) == []
        assert os.pread(first.fd, 4, 1024) == bytes.fromhex("e2e1f5e0")  # still there for its user
    with pytest.raises(ImageNotFoundError):
        store.rootfs(image)


def test_building_at_once_builds_once(store: ImageStore, tmp_path: Path) -> None:
    crafted.small(tmp_path / "l")
    image = store.import_(str(tmp_path / "l"), "x")
    inodes: list[int] = []
    steps: list[str] = []

    def build() -> None:
        with store.rootfs(image, steps.append) as rootfs:
            inodes.append(os.fstat(rootfs.fd).st_ino)

    threads = [threading.Thread(target=build) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(inodes) == 4
    assert len(set(inodes)) == 1
    assert steps.count("making the root filesystem") == 1


def test_removed_while_it_is_built(store: ImageStore, tmp_path: Path) -> None:
    crafted.small(tmp_path / "l")
    image = store.import_(str(tmp_path / "l"), "x")

    def remove_late(step: str) -> None:
        if step == "making the root filesystem":
            store.remove("x")

    with store.rootfs(image, remove_late) as rootfs:
        assert rootfs.path.exists()
        assert list(store.caches.iterdir()) == []
    assert scratch(store) == []


def test_zstd_and_plain_layers(store: ImageStore, tmp_path: Path) -> None:
    for compress in ("zstd", ""):
        crafted.small(tmp_path / f"l{compress}", compress=compress)
        with store.rootfs(store.import_(str(tmp_path / f"l{compress}"), "x")) as rootfs:
            assert rootfs.passwd == crafted.PASSWD.decode()


def test_another_architecture(store: ImageStore, tmp_path: Path) -> None:
    crafted.small(tmp_path / "l", architecture="s390x")
    image = store.import_(str(tmp_path / "l"), "x")
    with pytest.raises(WrongPlatformError, match="s390x"):
        store.rootfs(image)


def test_volumes_are_where_links_lead_with_their_owners(store: ImageStore, tmp_path: Path) -> None:
    layer = tar(
        entry("data", type=tarfile.DIRTYPE, uid=999, gid=998, mode=0o2750),
        entry("short", type=tarfile.SYMTYPE, linkname="../../../data"),
    )
    volumes: dict[str, dict[str, dict[str, str]]] = {"Volumes": {"/short": {}, "data": {}, "/not/there": {}}}
    crafted.image(tmp_path / "l", layer, config=volumes)
    image = store.import_(str(tmp_path / "l"), "x")
    wanted = {VolumeFolder("/data", 999, 998, 0o2750), VolumeFolder("/not/there", 0, 0, 0o755)}
    for _ in ("made", "cached"):
        with store.rootfs(image) as rootfs:
            assert len(rootfs.volumes) == 2
            assert set(rootfs.volumes) == wanted


@pytest.mark.parametrize(("volume", "says"), [("/file", "not a folder"), ("/up", "the root"), ("/", "the root")])
def test_volumes_that_cannot_be(store: ImageStore, tmp_path: Path, volume: str, says: str) -> None:
    layer = tar(entry("file", b"x"), entry("up", type=tarfile.SYMTYPE, linkname="../.."))
    crafted.image(tmp_path / "l", layer, config={"Volumes": {volume: {}}})
    with pytest.raises(MalformedImageError, match=says):
        store.rootfs(store.import_(str(tmp_path / "l"), "x"))
    assert scratch(store) == []


def test_busybox_runs(store: ImageStore, tmp_path: Path) -> None:
    image = store.resolve("apt://busybox-static")
    with store.rootfs(image) as rootfs, mounted(rootfs, tmp_path / "m") as root:
        said = subprocess.run(
            ["chroot", str(root), "/bin/sh", "-c", "ls -ld /tmp; whoami"], check=True, capture_output=True, timeout=30
        ).stdout.decode()
        assert said.startswith("drwxrwxrwt")
        assert said.endswith("root\n")
        assert (root / "bin/sh").stat().st_ino == (root / "usr/bin/awk").stat().st_ino


def test_a_directory_is_used_as_it_is(store: ImageStore, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/passwd").symlink_to("/etc/real")  # absolute: this root's, not the host's
    (tree / "etc/real").write_bytes(crafted.PASSWD)
    (tree / "etc/group").symlink_to("../../../../../../etc/group")
    os.mkfifo(tree / "pipe")
    os.mknod(tree / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    image = store.resolve(str(tree))
    with store.rootfs(image) as rootfs, mounted(rootfs, tmp_path / "m") as root:
        assert rootfs.passwd == crafted.PASSWD.decode()
        assert rootfs.group == ""
        assert rootfs.config.cmd == ("/bin/sh",)
        assert sorted(os.listdir(root)) == ["etc", "null", "pipe"]
        assert rootfs.path.exists()
    assert scratch(store) == []
    assert list(store.caches.iterdir()) == []


def test_a_directory_with_a_mount_in_it(store: ImageStore, tmp_path: Path) -> None:
    inner = tmp_path / "tree" / "a b"
    inner.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", str(inner)], check=True, timeout=30)
    try:
        with pytest.raises(ImageError, match=r"mounted in it, at .*/a b"):
            store.resolve(str(tmp_path / "tree"))
    finally:
        subprocess.run(["umount", str(inner)], check=True, timeout=30)


def test_a_bind_mount_of_the_root_is_still_the_root(store: ImageStore, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    subprocess.run(["mount", "--bind", "/", str(tmp_path / "tree")], check=True, timeout=30)
    try:
        with pytest.raises(ImageError, match="host's own root"):
            store.resolve(str(tmp_path / "tree"))
    finally:
        subprocess.run(["umount", str(tmp_path / "tree")], check=True, timeout=30)


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A file system of 32 MiB."""
    place = tmp_path / "tiny"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "none", str(place)], check=True, timeout=30)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True, timeout=30)


def test_too_little_space_is_said_before(tiny: Path, tmp_path: Path) -> None:
    store = ImageStore(tiny / "store")
    crafted.image(tmp_path / "l", tar(entry("big", b"\0" * (12 << 20))))
    image = store.import_(str(tmp_path / "l"), "x")
    with pytest.raises(NoSpaceError, match=r"too little space to unpack the image: .* \d+ MiB are missing"):
        store.rootfs(image)
    assert scratch(store) == []


def test_a_bomb_is_refused(tiny: Path, tmp_path: Path) -> None:
    store = ImageStore(tiny / "store")
    crafted.image(tmp_path / "l", tar(entry("big", b"\0" * (200 << 20))))
    image = store.import_(str(tmp_path / "l"), "x")
    with pytest.raises(NoSpaceError, match="unpacks to more than"):
        store.rootfs(image)
    assert scratch(store) == []


def test_an_import_that_does_not_fit(tiny: Path, tmp_path: Path) -> None:
    store = ImageStore(tiny / "store")
    crafted.image(tmp_path / "l", tar(entry("big", os.urandom(40 << 20))), compress="")
    with pytest.raises(NoSpaceError):
        store.import_(str(tmp_path / "l"), "x")
    assert store.list() == []
    assert scratch(store) == []


def test_space_that_goes_away_meanwhile(tiny: Path, tmp_path: Path) -> None:
    store = ImageStore(tiny / "store")
    crafted.image(tmp_path / "l", tar(entry("big", os.urandom(4 << 20))))
    image = store.import_(str(tmp_path / "l"), "x")

    for moment in ("unpacking", "making"):

        def fill(step: str, moment: str = moment) -> None:
            if step.startswith(moment):
                with (tiny / "other").open("wb") as file:
                    free = os.statvfs(tiny)
                    os.posix_fallocate(file.fileno(), 0, (free.f_bavail - 256) * free.f_frsize)

        with pytest.raises(NoSpaceError, match="is full"):
            store.rootfs(image, fill)
        (tiny / "other").unlink()
        assert scratch(store) == []
        assert list(store.caches.iterdir()) == []
    with store.rootfs(image) as rootfs:
        assert rootfs.fd >= 0


BUILD = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell has put in the background
from pathlib import Path
from kata.images.store import ImageStore
store = ImageStore(Path(sys.argv[1]))
def tell(step):
    print(step, flush=True)
    if step.startswith(sys.argv[2]):
        time.sleep(60)
store.rootfs(store.get("x"), tell)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("step", ["unpacking", "making"])
def test_an_end_in_the_middle(store: ImageStore, tmp_path: Path, number: int, step: str) -> None:
    crafted.small(tmp_path / "l")
    image = store.import_(str(tmp_path / "l"), "x")
    with subprocess.Popen(
        [sys.executable, "-c", BUILD, str(store.root), step],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as builder:
        assert builder.stdout is not None
        while not builder.stdout.readline().startswith(step):
            pass
        assert scratch(store)
        builder.send_signal(number)
        assert builder.wait(30) != 0
    if number != signal.SIGKILL:
        assert scratch(store) == []
    store.rootfs(image).close()
    assert scratch(store) == []

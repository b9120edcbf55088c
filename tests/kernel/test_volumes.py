"""Volumes on a real kernel: an ext4 on a loop device grows while mounted, swap space is refused where data is."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kata.agent import swap, volumes
from kata.agent.errors import BadRequest, TimedOut, WrongState
from kata.agent.volumes import VolumeError
from kata.linux import syscalls
from kata.log import Logger
from tests.kernel.namespaces import run_in_namespaces

pytestmark = pytest.mark.root
MIB = 1 << 20
CAP_SYS_RESOURCE = 24


def may_resize() -> bool:
    """Whether this process has the right that the kernel asks for before it grows an ext4."""
    status = Path("/proc/self/status").read_text()
    return bool(int(status.split("CapEff:")[1].split()[0], 16) >> CAP_SYS_RESOURCE & 1)


needs_resource = pytest.mark.skipif(not may_resize(), reason="no CAP_SYS_RESOURCE; tests/vm grows one in a guest")


@contextmanager
def disk(image: Path, size: int) -> Iterator[str]:
    """A loop device of `size` bytes on a new image."""
    image.touch()
    os.truncate(image, size)
    attach = ["losetup", "--show", "-f", os.fspath(image)]
    node = subprocess.run(attach, check=True, capture_output=True, text=True).stdout.strip()
    try:
        yield node
    finally:
        subprocess.run(["losetup", "-d", node], check=True)


@contextmanager
def ext4(folder: Path, size: int, flags: int = 0) -> Iterator[tuple[str, Path]]:
    with disk(folder / "image", size) as node:
        subprocess.run(["mkfs.ext4", "-q", node], check=True, capture_output=True)
        place = folder / "volume"
        place.mkdir(exist_ok=True)
        syscalls.mount(node, str(place), "ext4", flags)
        try:
            yield node, place
        finally:
            syscalls.umount2(str(place))


def enlarge(folder: Path, node: str, size: int) -> None:
    os.truncate(folder / "image", size)
    subprocess.run(["losetup", "-c", node], check=True)


def total(folder: Path) -> int:
    return volumes.volume_stats(f"{folder}/volume", str(folder)).usage[0].total


@needs_resource
def test_ext4_grows_while_it_is_mounted(tmp_path: Path) -> None:
    def body() -> None:
        with ext4(tmp_path, 16 * MIB) as (node, place):
            before = total(tmp_path)
            (place / "file").write_text("kept")
            enlarge(tmp_path, node, 48 * MIB)
            volumes.resize_volume(str(place), 48 * MIB, str(tmp_path))
            assert total(tmp_path) > before + 24 * MIB
            volumes.resize_volume(str(place), 48 * MIB, str(tmp_path))  # asked twice
            volumes.resize_volume(str(place), MIB, str(tmp_path))  # never smaller
            assert total(tmp_path) > before + 24 * MIB
            assert (place / "file").read_text() == "kept"
        subprocess.run(["/sbin/e2fsck", "-fn", tmp_path / "image"], check=True, capture_output=True)

    run_in_namespaces(body, syscalls.CLONE_NEWNS)


def test_a_disk_that_grows_late_is_waited_for(tmp_path: Path) -> None:
    def body() -> None:
        with ext4(tmp_path, 16 * MIB) as (node, place):
            before = total(tmp_path)
            with pytest.raises(TimedOut, match="are wanted"):
                volumes.resize_volume(str(place), 32 * MIB, str(tmp_path), timeout=0.05)
            assert total(tmp_path) == before
            folder = os.path.realpath(f"/sys/class/block/{node.removeprefix('/dev/')}")
            assert volumes._wait_for_size(folder, 16 * MIB, 0) == 16 * MIB
            late = threading.Timer(0.3, enlarge, (tmp_path, node, 32 * MIB))
            late.start()
            assert volumes._wait_for_size(folder, 32 * MIB, 20) == 32 * MIB
            late.join()

    run_in_namespaces(body, syscalls.CLONE_NEWNS)


@needs_resource
def test_a_read_only_volume_does_not_grow(tmp_path: Path) -> None:
    def body() -> None:
        with (
            ext4(tmp_path, 16 * MIB, syscalls.MS_RDONLY) as (_, place),
            pytest.raises(VolumeError, match="Read-only"),
        ):
            volumes.resize_volume(str(place), MIB, str(tmp_path))

    run_in_namespaces(body, syscalls.CLONE_NEWNS)


def test_mount_points_of_the_share_are_counted(tmp_path: Path) -> None:
    def body() -> None:
        (tmp_path / "one").mkdir()
        syscalls.mount("x", f"{tmp_path}/one", "tmpfs")
        assert volumes.refresh_share(Logger(2), str(tmp_path)) == 1
        assert volumes.refresh_share(Logger(2), f"{tmp_path}/one") == 0

    run_in_namespaces(body, syscalls.CLONE_NEWNS)


def test_a_disk_in_use_or_with_data_is_no_swap_space(tmp_path: Path) -> None:
    """Swapping itself has no namespace and is tested in a guest; here nothing is ever swapped on."""

    def body() -> None:
        with ext4(tmp_path, 16 * MIB) as (node, place):
            with pytest.raises(WrongState, match="in use"):
                swap._prepare(node)
            assert place.is_mount()
        with disk(tmp_path / "image", 16 * MIB) as node, pytest.raises(BadRequest, match="neither empty"):
            swap._prepare(node)

    run_in_namespaces(body, syscalls.CLONE_NEWNS)


def test_an_empty_disk_becomes_swap_space(tmp_path: Path) -> None:
    with disk(tmp_path / "image", MIB) as node:
        swap._prepare(node)
        first = (tmp_path / "image").read_bytes()
        swap._prepare(node)  # as it is
        assert (tmp_path / "image").read_bytes() == first
        assert first[swap.PAGE - 10 : swap.PAGE] == swap.SIGNATURE

"""Volumes: how full, refused paths, refused file systems, and the share's mount points."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from kata.agent import volumes
from kata.agent.errors import BadRequest, Unsupported
from kata.log import Logger
from kata.protocol.generated import csi_pb2


def test_stats_are_those_of_the_file_system(tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    stats = volumes.volume_stats(f"{tmp_path}/volume", str(tmp_path))
    size, inodes = stats.usage
    assert (size.unit, inodes.unit) == (csi_pb2.VolumeUsage.BYTES, csi_pb2.VolumeUsage.INODES)
    assert size.total == shutil.disk_usage(tmp_path).total
    assert 0 < size.available <= size.total - size.used
    found = os.statvfs(tmp_path)
    assert inodes.total == found.f_files
    assert inodes.used + inodes.available <= inodes.total
    assert (stats.volume_condition.abnormal, stats.volume_condition.message) == (False, "OK")


@pytest.mark.parametrize("path", ["", "/", "/etc", "{root}", "{root}x/a", "{root}/../b", "{root}/none", "{root}/out"])
def test_paths_elsewhere_are_no_volumes(tmp_path: Path, path: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "b").mkdir()
    (root / "out").symlink_to("/etc")
    for work in (volumes.volume_stats, lambda path, root: volumes.resize_volume(path, 1, root)):
        with pytest.raises(BadRequest):
            work(path.format(root=root), str(root))


def test_a_link_inside_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert volumes.volume_stats(f"{tmp_path}/link", str(tmp_path)).usage


def test_a_fifo_blocks_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert volumes.volume_stats(f"{tmp_path}/fifo", str(tmp_path)).usage
    with pytest.raises(BadRequest):
        volumes.resize_volume(f"{tmp_path}/fifo", 1, str(tmp_path))


def test_what_cannot_grow_is_refused() -> None:
    with pytest.raises(Unsupported, match="proc, which cannot be grown"):
        volumes.resize_volume("/proc/sys", 1 << 20, "/proc")


def test_request_numbers_follow_from_the_kernels_structures() -> None:
    def ioc(direction: int, kind: int, number: int, size: int) -> int:
        return direction << 30 | size << 16 | kind << 8 | number  # include/uapi/asm-generic/ioctl.h

    write, read = 1, 2
    assert ioc(write, ord("f"), 16, 8) == volumes.EXT4_IOC_RESIZE_FS
    assert ioc(read, ord("X"), 100, volumes._XFS_GEOMETRY.size) == volumes.XFS_IOC_FSGEOMETRY_V1
    assert ioc(write, ord("X"), 110, 16) == volumes.XFS_IOC_FSGROWFSDATA
    assert ioc(write, 0x94, 3, volumes._BTRFS_ARGS.size) == volumes.BTRFS_IOC_RESIZE


def test_mount_points_below_the_share_are_looked_at(tmp_path: Path) -> None:
    log = Logger(2)
    assert volumes.refresh_share(log, "/") == 0  # nothing is below "//"
    assert volumes.refresh_share(log, str(tmp_path)) == 0

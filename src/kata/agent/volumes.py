"""Volumes that are mounted already: how full they are, growing them, and having the host forget stale handles.

Called by the service for GetVolumeStats, ResizeVolume and RemoveStaleVirtiofsShareMounts. Paths come from the host
and lead through what containers can write to, so they are resolved below `ROOT` and no link leads out of it.
Growing is a request to the kernel, not a program: the guest has none. Never mount or format here.
"""

from __future__ import annotations

import fcntl
import os
import select
import stat
import struct
import time

from kata.agent.errors import AgentError, BadRequest, TimedOut, Unsupported
from kata.linux import mounts, syscalls
from kata.linux.fds import read_text, write_text
from kata.linux.uevent import EventsLost, UeventSocket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.log import Logger
    from kata.protocol.generated import csi_pb2

ROOT = "/run/kata-containers"
SHARE = f"{ROOT}/shared/containers"
GROW_TIMEOUT = 10.0
"""Seconds for a disk that the host has enlarged to show its new size."""

# Names and numbers are the kernel's: fs/ext4/ext4.h, fs/xfs/libxfs/xfs_fs.h, include/uapi/linux/btrfs.h
EXT4_IOC_RESIZE_FS = 0x40086610
XFS_IOC_FSGEOMETRY_V1 = 0x80705864
XFS_IOC_FSGROWFSDATA = 0x4010586E
BTRFS_IOC_RESIZE = 0x50009403
_XFS_GEOMETRY = struct.Struct("=8I4Q16s2Ii4I4x")  # struct xfs_fsop_geom_v1
_BTRFS_ARGS = struct.Struct("=q4088s")  # struct btrfs_ioctl_vol_args
_SECTOR = 512  # of /sys/block/*/size, whatever the disk's own is


class VolumeError(AgentError):
    """The kernel refused to look at a volume, or to grow it."""


def volume_stats(path: str, root: str = ROOT) -> csi_pb2.VolumeStatsResponse:
    """Bytes and inodes of the file system at `path`: total, used, and what is left to ordinary users.

    Raises BadRequest, VolumeError.
    """
    from kata.protocol.generated import csi_pb2

    fd = _open(path, os.O_PATH, root)
    try:
        found = os.fstatvfs(fd)
    except OSError as error:
        raise VolumeError(f"cannot tell how full the volume {path} is: {error.strerror}") from error
    finally:
        os.close(fd)
    size = found.f_frsize
    bytes_used = csi_pb2.VolumeUsage(
        available=found.f_bavail * size,
        total=found.f_blocks * size,
        used=(found.f_blocks - found.f_bfree) * size,
        unit=csi_pb2.VolumeUsage.BYTES,
    )
    inodes_used = csi_pb2.VolumeUsage(
        available=found.f_favail,
        total=found.f_files,
        used=found.f_files - found.f_ffree,
        unit=csi_pb2.VolumeUsage.INODES,
    )
    condition = csi_pb2.VolumeCondition(abnormal=False, message="OK")
    return csi_pb2.VolumeStatsResponse(usage=[bytes_used, inodes_used], volume_condition=condition)


def resize_volume(path: str, size: int, root: str = ROOT, timeout: float = GROW_TIMEOUT) -> None:
    """Grow the ext4, xfs or btrfs at `path` to its whole disk, which must have at least `size` bytes.

    The host enlarges the disk first, as CSI's expansion does; the file system is never made smaller. Raises
    BadRequest, Unsupported, TimedOut when the disk stays smaller than `size`, VolumeError.
    """
    fd = _open(path, os.O_RDONLY | os.O_DIRECTORY, root)
    try:
        mount, source = mounts.mount_of(fd)
        grow = _GROW.get(mount.fstype)
        if grow is None:
            raise Unsupported(f"the volume {path} is {mount.fstype}, which cannot be grown (ext4, xfs and btrfs can)")
        grow(fd, _wait_for_size(_disk(mount.device, source), size, timeout))
    except OSError as error:
        raise VolumeError(f"cannot grow the volume {path}: {error.strerror}", detail=str(error)) from error
    finally:
        os.close(fd)


def refresh_share(log: Logger, share: str = SHARE) -> int:
    """stat(2) every mount point below the share, which makes virtiofsd drop entries and handles that are stale.

    What cannot be looked at is logged; that alone is no failure. How many were looked at.
    """
    inside = share + "/"
    points = [point.target for point in mounts.mount_points() if point.target.startswith(inside)]
    for point in points:
        try:
            os.stat(point)
        except OSError as error:
            log.warn("a mount of the share is stale", path=point, error=error)
    return len(points)


def _open(path: str, flags: int, root: str) -> int:
    """Open a path below `root`; links that lead out of it are refused. The caller owns the descriptor."""
    if not path.startswith(root + "/"):
        raise BadRequest(f"volumes are below {root}, not at {path!r}")
    try:
        top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            resolve = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_MAGICLINKS
            return syscalls.openat2(top, path[len(root) :].strip("/") or ".", flags, 0, resolve)
        finally:
            os.close(top)
    except (OSError, ValueError) as error:
        raise BadRequest(f"there is no volume at {path!r}", detail=str(error)) from error


def _disk(device: str, source: str) -> str:
    """The sysfs folder of the disk below a mount. File systems with a number of their own name it as the source."""
    if device.startswith("0:"):
        info = os.stat(source)
        if not stat.S_ISBLK(info.st_mode):
            raise Unsupported(f"{source} is no disk")
        device = f"{os.major(info.st_rdev)}:{os.minor(info.st_rdev)}"
    return os.path.realpath(f"/sys/dev/block/{device}")


def _wait_for_size(disk: str, size: int, timeout: float) -> int:
    """The disk's size in bytes, once it is `size` or more. The kernel tells of a change by an event."""
    deadline = time.monotonic() + timeout
    with UeventSocket() as events:  # before the first look, so that no change slips between
        rescan = f"{disk}/device/rescan"
        if os.path.exists(rescan):  # SCSI looks again only when told to; virtio hears of it by itself
            write_text(rescan, "1")
        poll = select.poll()
        poll.register(events.fileno(), select.POLLIN)
        while (found := int(read_text(f"{disk}/size")) * _SECTOR) < size:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise TimedOut(f"the disk has {found} bytes, and {size} are wanted", hint="Enlarge the disk first.")
            try:
                events.receive()
            except EventsLost:
                continue
    return found


def _grow_ext4(fd: int, size: int) -> None:
    fcntl.ioctl(fd, EXT4_IOC_RESIZE_FS, struct.pack("=Q", size // os.fstatvfs(fd).f_bsize))


def _grow_xfs(fd: int, size: int) -> None:
    geometry = bytearray(_XFS_GEOMETRY.size)
    fcntl.ioctl(fd, XFS_IOC_FSGEOMETRY_V1, geometry)
    fields = _XFS_GEOMETRY.unpack(geometry)
    block_size, inode_percent, blocks = fields[0], fields[7], fields[8]
    if size // block_size > blocks:
        fcntl.ioctl(fd, XFS_IOC_FSGROWFSDATA, struct.pack("=QI4x", size // block_size, inode_percent))


def _grow_btrfs(fd: int, size: int) -> None:
    fcntl.ioctl(fd, BTRFS_IOC_RESIZE, bytearray(_BTRFS_ARGS.pack(0, b"max")))


_GROW = {"ext4": _grow_ext4, "xfs": _grow_xfs, "btrfs": _grow_btrfs}

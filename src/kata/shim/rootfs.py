"""From what containerd gives as a container's root file system to what the guest gets: a share, or a disk.

Called by `pod` before a container is created. What is shared, or made into an image, is mounted in the shim's own
mount namespace: nobody but this process sees it, and it goes with the process. A snapshot that is a disk already is
never mounted on the host: its file system is the guest's affair.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kata.errors import KataError
from kata.linux import mounts, syscalls
from kata.linux.apart import apart
from kata.linux.mountoptions import parse_options
from kata.sandbox.config import PluggedRootfs, SharedRootfs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kata.protocol.generated.host import mount_pb2
    from kata.sandbox.config import Rootfs, SandboxConfig

PAGE = 4096
"""mount(2) takes at most a page of data, its end included."""


DISK_TYPES = ("btrfs", "erofs", "ext4", "xfs")
"""File systems of disks that the guest can mount."""
OVER_LAYERS, HOSTS_OWN = ("erofs",), ("loop", "ro", "rw")


class RootfsError(KataError):
    """The root file system of a container cannot be had."""


@contextmanager
def guest_rootfs(
    bundle: str, entries: Sequence[mount_pb2.Mount], sandbox: SandboxConfig, root: str = ""
) -> Iterator[Rootfs]:
    """What the guest is to have as the root file system; it stays as it is for the block's time.

    A disk as it is, if the sandbox may have it; else a shared folder; else an image of the folder, made once for each
    snapshot. `root` is where the specification has it, for bundles that hold one. Raises RootfsError, ImageError.
    """
    disk = disk_rootfs(entries) if sandbox.block_rootfs else None
    if disk is not None:
        yield disk
        return
    folder = mount_rootfs(bundle, entries, root)
    if sandbox.share:
        yield SharedRootfs(folder)
        return
    from kata.images.snapshots import SnapshotCache  # for guests that share nothing

    with SnapshotCache().image(snapshot_key(entries), folder) as path:
        yield PluggedRootfs(path, "erofs", ("ro",))


def disk_rootfs(entries: Sequence[mount_pb2.Mount]) -> PluggedRootfs | None:
    """The root file system as a disk, when it is one block device, or one image that would be mounted by a loop."""
    if len(entries) != 1 or entries[0].type not in DISK_TYPES or not _is_disk(entries[0]):
        return None
    entry, layered = entries[0], entries[0].type in OVER_LAYERS
    readonly = layered or "ro" in entry.options
    options = [option for option in entry.options if option not in HOSTS_OWN]
    options += ["nouuid"] if entry.type == "xfs" else []  # snapshots of one disk have the same UUID
    options += ["ro"] if readonly else []
    return PluggedRootfs(entry.source, entry.type, tuple(options), readonly=readonly, layered=layered)


def snapshot_key(entries: Sequence[mount_pb2.Mount]) -> str:
    """What identifies the content of a snapshot; empty when it is more than layers that never change."""
    from kata.images.snapshots import identity

    if len(entries) != 1:
        return ""
    [entry] = entries
    options = dict(option.partition("=")[::2] for option in entry.options)
    if entry.type == "overlay" and options.get("lowerdir"):
        if "upperdir" in options and os.listdir(options["upperdir"]):
            return ""  # a container has written to it before
        return identity(options["lowerdir"].split(":"))
    is_view = entry.type == "bind" and "ro" in options
    return identity([entry.source]) if is_view else ""


def mount_rootfs(bundle: str, entries: Sequence[mount_pb2.Mount], root: str = "") -> str:
    """The folder that holds the root file system: `<bundle>/rootfs`, with `entries` mounted there in their order.

    Without entries it is `root`, as the specification names it: absolute, or below the bundle. Never a device, and
    never a folder of the host in which the bundle is. Raises RootfsError; nothing stays mounted then.
    """
    target = os.path.join(bundle, "rootfs" if entries else root or "rootfs")
    try:
        if entries:
            os.makedirs(target, 0o711, exist_ok=True)
        for entry in entries:
            _mount(entry, target)
        _require_usable(bundle, target, empty_is_fine=bool(entries))
    except OSError as error:
        unmount_rootfs(bundle)
        raise RootfsError(
            f"the root file system of {os.path.basename(bundle)} cannot be mounted: {error}",
            hint="look at the snapshotter of the container manager",
        ) from error
    except RootfsError:
        unmount_rootfs(bundle)
        raise
    return target


def _require_usable(bundle: str, target: str, *, empty_is_fine: bool) -> None:
    """Raise RootfsError for what is no root file system, or is the host's (CVE-2026-24054), whatever links lead there.

    What holds the bundle holds the host's state, so no container's root does. Raises OSError.
    """
    if not empty_is_fine and not _has_content(target):
        raise RootfsError(
            f"{target} is empty or missing, and nothing is to be mounted there",
            hint="an image without layers cannot be run; give the container a root file system",
            layer="config",
        )
    real, holder = os.stat(target), os.path.realpath(bundle)
    while True:
        if os.path.samestat(real, os.stat(holder)):
            raise RootfsError(
                f"{target} is this host's {holder}, which no container can have as its root file system",
                hint="give the container a root file system of its own",
                layer="config",
            )
        if holder == "/":
            return
        holder = os.path.dirname(holder)


def _has_content(folder: str) -> bool:
    try:
        return bool(os.listdir(folder))
    except OSError:
        return False


def unmount_rootfs(bundle: str) -> None:
    """Take the mounts at `<bundle>/rootfs` down; harmless when there are none."""
    mounts.unmount_below(os.path.join(bundle, "rootfs"))


def _is_disk(entry: mount_pb2.Mount) -> bool:
    try:
        mode = os.stat(entry.source).st_mode
    except OSError:
        return False
    return stat.S_ISBLK(mode) or (stat.S_ISREG(mode) and "loop" in entry.options)


def _mount(entry: mount_pb2.Mount, target: str) -> None:
    options, folder = _shorten(list(entry.options)) if entry.type == "overlay" else (list(entry.options), "")
    parsed = parse_options(options)
    kind = "" if parsed.flags & syscalls.MS_BIND else entry.type
    if not folder:
        syscalls.mount(entry.source, target, kind, parsed.flags, parsed.data)
    else:
        _in_folder(folder, lambda: syscalls.mount(entry.source, target, kind, parsed.flags, parsed.data))
    readonly = syscalls.MS_BIND | syscalls.MS_REMOUNT | syscalls.MS_RDONLY
    if parsed.flags & syscalls.MS_BIND and parsed.flags & syscalls.MS_RDONLY:
        syscalls.mount("none", target, "", readonly)  # a bind mount takes its flags at a second call (mount(8))
    if parsed.propagation:
        syscalls.mount("none", target, "", parsed.propagation)


def _shorten(options: list[str]) -> tuple[list[str], str]:
    """Options of an overlay with many layers, made to fit: lower directories relative to the folder they share."""
    if len(",".join(options)) < PAGE:
        return options, ""
    lower = next((option for option in options if option.startswith("lowerdir=")), "")
    layers = lower.removeprefix("lowerdir=").split(":")
    folder = os.path.commonpath([os.path.dirname(layer) for layer in layers])
    short = "lowerdir=" + ":".join(os.path.relpath(layer, folder) for layer in layers)
    return [short if option == lower else option for option in options], folder


def _in_folder(folder: str, work: Callable[[], None]) -> None:
    """Call `work` with another current folder, which only a thread of its own can have (unshare(2), CLONE_FS)."""

    def run() -> None:
        syscalls.unshare(syscalls.CLONE_FS)
        os.chdir(folder)
        work()

    apart(run, "mount")

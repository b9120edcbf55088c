"""Mounts what containerd gives as a container's root file system, in the shim's own mount namespace.

Called by `pod` before a container is created. Nobody but this process sees the mount, and it goes with the process.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from kata.errors import KataError
from kata.linux import mounts, syscalls
from kata.linux.mountoptions import parse_options

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kata.protocol.generated.host import mount_pb2

PAGE = 4096
"""mount(2) takes at most a page of data, its end included."""


class RootfsError(KataError):
    """The root file system of a container cannot be had."""


def mount_rootfs(bundle: str, entries: Sequence[mount_pb2.Mount], root: str = "") -> str:
    """The folder that holds the root file system: `<bundle>/rootfs`, with `entries` mounted there in their order.

    Without entries it is `root`, as the specification names it: absolute, or below the bundle. Raises RootfsError;
    nothing stays mounted then.
    """
    target = os.path.join(bundle, "rootfs" if entries else root or "rootfs")
    try:
        if entries:
            os.makedirs(target, 0o711, exist_ok=True)
        for entry in entries:
            _mount(entry, target)
    except OSError as error:
        unmount_rootfs(bundle)
        raise RootfsError(
            f"the root file system of {os.path.basename(bundle)} cannot be mounted: {error}",
            hint="look at the snapshotter of the container manager",
        ) from error
    if not entries and not _has_content(target):
        raise RootfsError(
            f"{target} is empty or missing, and nothing is to be mounted there",
            hint="an image without layers cannot be run; give the container a root file system",
            layer="config",
        )
    return target


def _has_content(folder: str) -> bool:
    try:
        return bool(os.listdir(folder))
    except OSError:
        return False


def unmount_rootfs(bundle: str) -> None:
    """Take the mounts at `<bundle>/rootfs` down; harmless when there are none."""
    mounts.unmount_below(os.path.join(bundle, "rootfs"))


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
    errors: list[OSError] = []

    def run() -> None:
        try:
            syscalls.unshare(syscalls.CLONE_FS)
            os.chdir(folder)
            work()
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="mount", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]

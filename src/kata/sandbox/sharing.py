"""A sandbox's share with the host: started as its configuration says, and what the machine and the guest hear of it.

Called by `sandbox` before the VM boots, by `bringup` and by `guest`. The two ways of sharing differ here, in
`kata.storage`, and in what a template's memory is to them (`bringup`), and nowhere else.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, NamedTuple

from kata.hypervisor.machine import NinePDirectory, SharedDirectory
from kata.protocol.generated.agent_pb2 import Storage
from kata.sandbox.updates import SANDBOX_MOUNTS, SHARE_MOUNT

if TYPE_CHECKING:
    from collections.abc import Callable

    from kata.hypervisor.machine import Machine
    from kata.sandbox.config import SandboxConfig, Sharing
    from kata.storage.share import Share

GRACE = 1.0
"""Seconds within which a VMM that took its file daemon with it has ended."""


class Exports(NamedTuple):
    """What the machine needs to show the share to its guest."""

    virtiofs: tuple[SharedDirectory, ...] = ()
    ninep: tuple[NinePDirectory, ...] = ()


def places(config: SandboxConfig) -> tuple[NinePDirectory, ...]:
    """What a machine has from the start for a share that comes later. virtio-fs is plugged in."""
    if not config.share or config.sharing.way != "virtio-9p":
        return ()
    from kata.storage.share import TAG  # a sandbox that shares nothing does without

    return (NinePDirectory(TAG),)


def start(sharing: Sharing, directory: str) -> tuple[Share, Exports]:
    """Start the daemon; the share is the caller's to close. `directory` is the VM's own. Raises StorageError."""
    share, exports = _start(sharing, directory)
    try:
        for mount in sharing.mounts:
            share.add(f"{SANDBOX_MOUNTS}/{os.path.basename(mount.path)}", mount.path, readonly=mount.readonly)
    except BaseException:
        share.close()
        raise
    return share, exports


def watch(share: Share, machine: Machine, lost: Callable[[str, str], None]) -> None:
    """Have `lost` called when the daemon ends: with what happened, and with its last words.

    The daemon ends by itself after its VMM, and that is not what ended the VMM: nobody is told then.
    """

    def wait() -> None:
        share.wait()
        if machine.wait(GRACE) is None:
            lost(f"{share.daemon} ended, which served the volumes", share.messages())

    threading.Thread(target=wait, name="share", daemon=True).start()


def storage(sharing: Sharing) -> Storage:
    """How the agent mounts the share. 9p has `cache=mmap`, without which a file cannot be mapped for writing."""
    from kata.storage.share import TAG  # a sandbox that shares nothing does without

    if sharing.way == "virtio-fs":
        return Storage(driver="virtio-fs", source=TAG, fstype="virtiofs", mount_point=SHARE_MOUNT, options=["nodev"])
    options = ["trans=virtio", "version=9p2000.L", "cache=mmap", "nodev", f"msize={sharing.msize}"]
    return Storage(driver="9p", source=TAG, fstype="9p", mount_point=SHARE_MOUNT, options=options)


def _start(sharing: Sharing, directory: str) -> tuple[Share, Exports]:
    if sharing.way == "virtio-9p":
        from kata.storage.ninep import start_ninep

        ninep = start_ninep(directory)
        return ninep, Exports(ninep=(NinePDirectory(ninep.tag, proxy_fd=ninep.proxy_fd),))
    from kata.storage.daemon import named_daemon
    from kata.storage.virtiofs import start_share

    program = named_daemon(sharing.daemon) if sharing.daemon else None
    virtiofs = start_share(directory, daemon=program, cache=sharing.cache)
    return virtiofs, Exports(virtiofs=(SharedDirectory(virtiofs.tag, virtiofs.socket_path),))

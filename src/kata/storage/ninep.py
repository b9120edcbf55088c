"""Shares directories and files of the host with one guest by 9p: a tree, served by QEMU with a helper. See `share`.

QEMU runs as a user of its own without capabilities, so by itself it could neither read what belongs to root nor give
files the owners that a container wants. Its virtfs-proxy-helper (virtfs-proxy-helper(1)) does that for it: a process
with the rights to files alone, whose root directory is the tree; the two speak over one socket. Debian 12's QEMU has
it; QEMU 8.1 calls it old, and 9.1 has none.
"""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from pathlib import Path

from kata.storage.errors import DaemonError
from kata.storage.share import PYTHON, Share

HELPER = "/usr/lib/qemu/virtfs-proxy-helper"


class NinePShare(Share):
    """A running helper, its socket and its tree. Made by `start_ninep`."""

    daemon = "virtfs-proxy-helper"
    metric = "virtfs_proxy_helper"

    def __init__(self, folder: Path, vmm: socket.socket) -> None:
        super().__init__(folder)
        self._vmm = vmm

    @property
    def proxy_fd(self) -> int:
        """The VMM's end of the socket to the helper. It stays this object's, and the VMM gets a copy."""
        return self._vmm.fileno()

    def close(self) -> None:
        """End the helper, unmount everything, and remove the tree. Idempotent."""
        self._vmm.close()
        super().close()


def start_ninep(directory: str, *, helper: str = HELPER, python: str = PYTHON) -> NinePShare:
    """Start a helper that serves an empty tree. `directory` is the sandbox's own folder (0700).

    Returns when the helper was executed. Raises DaemonError when this host has none, or it does not start.
    """
    if not os.access(helper, os.X_OK):
        raise DaemonError(
            f"9p needs QEMU's virtfs-proxy-helper, and there is none at {helper}",
            hint='apt-get install qemu-system-common (QEMU 9.1 and later have none), or set shared_fs = "virtio-fs"',
        )
    vmm, ours = socket.socketpair()
    share = NinePShare(Path(directory), vmm)
    with ours, ExitStack() as stack:
        stack.push(lambda kind, _value, _trace: share.close() if kind is not None else None)
        share.make_tree()
        share.launch(helper_argv(helper, share.tree, ours.fileno()), (ours.fileno(),), filtered=True, python=python)
    return share


def helper_argv(helper: str, tree: str, fd: int) -> list[str]:
    """The argv that serves `tree` to whoever has the other end of `fd`."""
    return [helper, "--nodaemon", "--path", tree, "--fd", str(fd)]

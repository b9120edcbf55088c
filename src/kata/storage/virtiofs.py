"""Shares directories and files of the host with one guest by virtio-fs: a tree, served by virtiofsd. See `share`."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path

from kata.storage.daemon import Cache, Daemon, daemon_argv, find_daemon
from kata.storage.errors import StorageError
from kata.storage.share import PYTHON, Share

SOCKET = "virtiofsd.sock"


class VirtiofsShare(Share):
    """A running virtiofsd, its socket and its tree. Made by `start_share`."""

    daemon = metric = "virtiofsd"

    @property
    def socket_path(self) -> str:
        """Where the daemon takes its one connection, the VMM's."""
        return str(self._folder / SOCKET)

    def close(self) -> None:
        """End the daemon, unmount everything, and remove socket and tree. Idempotent."""
        super().close()
        Path(self.socket_path).unlink(missing_ok=True)


def start_share(
    directory: str, *, daemon: Daemon | None = None, cache: Cache = "auto", python: str = PYTHON
) -> VirtiofsShare:
    """Start a daemon that exports an empty tree. `directory` is the sandbox's own folder (0700).

    Returns when the daemon was executed; the socket takes a connection from then on. `cache`: what the guest may keep.
    Raises DaemonError when there is no daemon or it does not start.
    """
    program = daemon or find_daemon()
    share = VirtiofsShare(Path(directory))
    with ExitStack() as ours:
        ours.push(lambda kind, _value, _trace: share.close() if kind is not None else None)
        share.make_tree()
        listener = _listen(Path(share.socket_path), ours)
        argv = daemon_argv(program, tree=share.tree, listener_fd=listener, cache=cache)
        share.launch(argv, (listener,), python=python)
    return share


def _listen(path: Path, stack: ExitStack) -> int:
    path.unlink(missing_ok=True)
    listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    try:
        listener.bind(str(path))
        listener.listen(1)
    except OSError as error:
        raise StorageError(f"no socket can be made at {path}: {error.strerror or error}") from error
    return listener.fileno()

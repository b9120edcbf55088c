"""Shares directories and files of the host with one guest by virtio-fs, and leaves nothing behind.

Called by the sandbox before the VM boots. One daemon per sandbox exports one small read-only tree with a mount
per volume, named `v0`, `v1`, … by us: no name of a user becomes a name in the export. Read-only is enforced on
the host, by the mount; what the guest does to its own mount changes nothing.

The tree exists in the daemon's mount namespace alone (see `launcher.py`), so killing the daemon removes it.
The daemon dies with the thread that called `start_share` (PR_SET_PDEATHSIG, prctl(2)): call it on one that stays.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import msgspec

from kata.linux.process import spawn
from kata.storage.daemon import Daemon, daemon_argv, find_daemon
from kata.storage.errors import DaemonError, StorageError, VolumeError

MOUNT_TAG = "kataShared"
SOCKET = "virtiofsd.sock"
TREE = "shared"
PYTHON = "/usr/bin/python3.11"
START_TIMEOUT = 15.0
STOP_TIMEOUT = 5.0
LAUNCHER = Path(__file__).with_name("launcher.py")
PACKAGES = LAUNCHER.parent.parent.parent


class Volume(msgspec.Struct, frozen=True):
    """A directory or regular file of the host to share. A symbolic link is followed once, when the share starts."""

    path: str
    readonly: bool = True


class VirtiofsShare:
    """A running daemon and its socket. Made by `start_share`; `close` ends both."""

    def __init__(self, folder: Path, volumes: tuple[Volume, ...]) -> None:
        self.volumes = volumes
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._messages_fd = -1

    def adopt(self, process: subprocess.Popen[bytes], messages_fd: int) -> None:
        """Own the daemon's process and the reading end of its standard error. For `start_share` only."""
        self._process, self._messages_fd = process, messages_fd

    def __enter__(self) -> VirtiofsShare:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def tag(self) -> str:
        """What the guest mounts."""
        return MOUNT_TAG

    @property
    def socket_path(self) -> str:
        """Where the daemon takes its one connection, the VMM's."""
        return str(self._folder / SOCKET)

    @property
    def pid(self) -> int:
        """The daemon's process id; also its process group, which holds all that it starts."""
        return 0 if self._process is None else self._process.pid

    def name(self, index: int) -> str:
        """The name that the volume `index` has in the share."""
        if not 0 <= index < len(self.volumes):
            raise StorageError(f"there is no volume {index} in this share")
        return f"v{index}"

    def messages(self) -> str:
        """What the daemon has said on its standard error, at most the first 64 KiB; each part is given once."""
        if self._messages_fd < 0:
            return ""
        return _read_available(self._messages_fd)

    def wait(self) -> None:
        """Return once the daemon has ended, whatever ended it."""
        if self._process is not None:
            self._process.wait()

    def running(self) -> bool:
        """False once the daemon has ended: its guest can reach no volume any more."""
        return self._process is not None and self._process.poll() is None

    def close(self) -> None:
        """End the daemon and remove its socket. The mounts go with its namespace. Idempotent."""
        if self._process is not None:
            _kill(self._process)
        if self._messages_fd >= 0:
            os.close(self._messages_fd)
            self._messages_fd = -1
        (self._folder / SOCKET).unlink(missing_ok=True)
        tree = self._folder / TREE
        if tree.is_dir():
            tree.rmdir()


def start_share(
    volumes: Sequence[Volume], directory: str, *, daemon: Daemon | None = None, python: str = PYTHON
) -> VirtiofsShare:
    """Start a daemon that exports `volumes`. `directory` is the sandbox's own folder (0700): the socket goes there.

    Returns when the export is assembled and the daemon was executed; the socket takes a connection from then on.
    Raises VolumeError when a path cannot be shared, DaemonError when there is no daemon or it does not start.
    """
    program = daemon or find_daemon()
    folder = Path(directory)
    tree = folder / TREE
    share = VirtiofsShare(folder, tuple(volumes))
    with ExitStack() as ours:
        ours.push(lambda kind, _value, _trace: share.close() if kind is not None else None)
        orders = [_open_volume(index, volume, ours) for index, volume in enumerate(volumes)]
        tree.mkdir(mode=0o700, exist_ok=True)
        listener = _listen(folder / SOCKET, ours)
        order: dict[str, object] = {
            "packages": str(PACKAGES),
            "tree": str(tree),
            "volumes": orders,
            "argv": daemon_argv(program, tree=str(tree), listener_fd=listener),
        }
        fds = (listener, *(int(str(entry["fd"])) for entry in orders))
        _launch(python, order, fds, share)
    return share


def _launch(python: str, order: dict[str, object], fds: tuple[int, ...], share: VirtiofsShare) -> None:
    status, status_fd = os.pipe2(os.O_CLOEXEC)
    messages, messages_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        argv = [python, "-IS", str(LAUNCHER), json.dumps({**order, "status_fd": status_fd})]
        # Nobody reads the messages while the daemon runs, and it never blocks on them: the first 64 KiB stay.
        share.adopt(spawn(argv, stderr=messages_fd, pass_fds=(*fds, status_fd)), messages)
        os.close(status_fd)
        status_fd = -1
        _await_exec(status, share)
    finally:
        for fd in (status, status_fd, messages_fd):
            if fd >= 0:
                os.close(fd)


def _open_volume(index: int, volume: Volume, stack: ExitStack) -> dict[str, object]:
    try:
        fd = os.open(volume.path, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        raise VolumeError(
            f"the volume {volume.path} cannot be opened: {error.strerror}",
            hint="give a directory or file that exists on the host",
        ) from error
    stack.callback(os.close, fd)
    mode = os.fstat(fd).st_mode
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        raise VolumeError(
            f"the volume {volume.path} is neither a directory nor a regular file",
            hint="share the directory that holds it, or give a device by --device",
        )
    return {"fd": fd, "name": f"v{index}", "readonly": volume.readonly, "directory": stat.S_ISDIR(mode)}


def _listen(path: Path, stack: ExitStack) -> int:
    path.unlink(missing_ok=True)
    listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    try:
        listener.bind(str(path))
        listener.listen(1)
    except OSError as error:
        raise StorageError(f"no socket can be made at {path}: {error.strerror or error}") from error
    return listener.fileno()


def _await_exec(status: int, share: VirtiofsShare) -> None:
    """Wait until the launcher has become the daemon: its end of `status` closes, empty when all went well."""
    deadline = time.monotonic() + START_TIMEOUT
    poll = select.poll()
    poll.register(status, select.POLLIN)
    complaint = b""
    while poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        chunk = os.read(status, 4096)
        if not chunk:
            break
        complaint += chunk
    else:
        raise DaemonError(f"virtiofsd did not start within {START_TIMEOUT:.0f} s", hint="try again")
    if complaint or not share.running():
        words = complaint.decode("utf-8", "replace")
        raise DaemonError(
            f"virtiofsd cannot be started: {words or 'it ended at once'}",
            hint="the host must allow mount namespaces and run this as root",
            detail=share.messages(),
        )


def _read_available(fd: int) -> str:
    chunks = []
    try:
        while chunk := os.read(fd, 65536):
            chunks.append(chunk)
    except BlockingIOError:
        pass  # the daemon runs on and has said no more
    return b"".join(chunks).decode("utf-8", "replace")


def _kill(process: subprocess.Popen[bytes]) -> None:
    # Its whole group: the C virtiofsd is two processes, one in the PID namespace that the other made.
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        pass  # stuck in the kernel on a dead file system; it is killed and ends when the kernel lets it

"""What the host shows to one guest: a small tree of mounts, and the daemon that serves it.

The two ways in are siblings: `virtiofs` and `ninep` start their daemon. The sandbox calls them before the VM boots, and
`add` when a container needs something. The daemon sees what `add` mounts by propagation. Read-only is enforced on the
host, by the mount; what the guest does to its own mount changes nothing, and beside the mounts it cannot write at all.

The owner has a mount namespace of its own (`mounts.own_namespace`), so killing it removes every mount that it made.
The daemon dies with the thread that started it (PR_SET_PDEATHSIG, prctl(2)): start it on one that stays.
"""

from __future__ import annotations

import os
import select
import signal
import stat
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from kata.linux import mounts, syscalls
from kata.linux.process import bare_environment, spawn
from kata.storage import hostsown
from kata.storage.errors import DaemonError, StorageError, VolumeError

TAG = "kataShared"
TREE = "shared"
TREE_FLAGS = syscalls.MS_NODEV | syscalls.MS_NOSUID | syscalls.MS_NOEXEC
PYTHON = "/usr/bin/python3.11"
START_TIMEOUT = 15.0
STOP_TIMEOUT = 5.0
LAUNCHER = Path(__file__).with_name("launcher.py")
PACKAGES = LAUNCHER.parent.parent.parent


class Share:
    """A running daemon and its tree. `close` ends both. Thread-safe. `folder` is the sandbox's own (0700)."""

    daemon: ClassVar[str] = ""
    """What the daemon is called."""
    metric: ClassVar[str] = ""
    """The same as part of a metric's name."""
    tag: ClassVar[str] = TAG
    """What the guest mounts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._messages_fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The daemon's process id; also its process group, which holds all that it starts."""
        return 0 if self._process is None else self._process.pid

    def add(self, name: str, path: str, *, readonly: bool) -> None:
        """Let the guest see the directory or regular file `path` of the host as `name` (components without "..").

        A symbolic link is followed once, now. Mounts below come along, and are read-only with it. Raises VolumeError.
        """
        target = f"{self.tree}/{name}"
        fd, directory = _open_volume(path)
        try:
            clone = syscalls.open_tree(fd)
            try:
                _make_mount_point(target, directory=directory)
                _attach(clone, target, readonly=readonly)
            finally:
                os.close(clone)
        except OSError as error:
            raise VolumeError(f"the volume {path} cannot be shared: {error}", layer="host") from error
        finally:
            os.close(fd)

    def remove(self, name: str) -> None:
        """Take `name` out of the export; what the guest has open there stays until it is closed. Idempotent."""
        target = f"{self.tree}/{name}"
        mounts.unmount(target)
        _remove_mount_point(target)

    @property
    def tree(self) -> str:
        """The folder that the daemon serves."""
        return str(self._folder / TREE)

    def make_tree(self) -> None:
        """Make it: shared, so that what comes later reaches the daemon's namespace. Raises StorageError."""
        try:
            os.mkdir(self.tree, 0o700)
            syscalls.mount("kata-share", self.tree, "tmpfs", TREE_FLAGS, "mode=0755,size=1m")
            syscalls.mount("none", self.tree, "", syscalls.MS_SHARED)
        except OSError as error:
            raise StorageError(f"the shared directory cannot be made: {error}") from error

    def launch(self, argv: list[str], fds: tuple[int, ...], *, filtered: bool = False, python: str = PYTHON) -> None:
        """Start the daemon, with `fds` open in it. `filtered`: it confines itself less than it could, see `launcher`.

        Returns when it was executed. Raises DaemonError.
        """
        status, status_fd = os.pipe2(os.O_CLOEXEC)
        self._messages_fd, messages_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            order = (str(PACKAGES), str(status_fd), str(os.getpid()), str(int(filtered)), self.tree)
            words = [python, "-IS", str(LAUNCHER), *order, *argv]
            # Nobody reads the messages while the daemon runs, and it never blocks on them: the first 64 KiB stay.
            inherited = (*fds, status_fd)
            self._process = spawn(words, stderr=messages_fd, pass_fds=inherited, env=bare_environment(), whole_env=True)
            os.close(status_fd)
            status_fd = -1
            _await_exec(status, self)
        finally:
            for fd in (status, status_fd, messages_fd):
                if fd >= 0:
                    os.close(fd)

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
        """End the daemon, unmount everything, and remove the tree. Idempotent."""
        if self._process is not None:
            _kill(self._process)
        if self._messages_fd >= 0:
            os.close(self._messages_fd)
            self._messages_fd = -1
        mounts.unmount_below(self.tree)
        if os.path.isdir(self.tree):
            os.rmdir(self.tree)


def _open_volume(path: str) -> tuple[int, bool]:
    """A descriptor that names what is to be shared, and whether it is a directory. Raises VolumeError."""
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        raise VolumeError(
            f"the volume {path} cannot be opened: {error.strerror}",
            hint="give a directory or file that exists on the host",
        ) from error
    try:
        mode = os.fstat(fd).st_mode
        if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
            raise VolumeError(
                f"the volume {path} is neither a directory nor a regular file",
                hint="share the directory that holds it, or give a device by --device",
            )
        hostsown.refuse(fd, path)
    except BaseException:
        os.close(fd)
        raise
    return fd, stat.S_ISDIR(mode)


def _attach(clone: int, target: str, *, readonly: bool) -> None:
    """A detached mount gets its flags before anybody can see it.

    A clone is a peer of a shared original, and what is unmounted below a peer goes below the original too: a slave
    still takes what the host mounts there later, and gives nothing back.
    """
    wanted = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV
    wanted |= syscalls.MOUNT_ATTR_RDONLY if readonly else 0
    syscalls.mount_setattr(clone, wanted, propagation=syscalls.MS_SLAVE)
    syscalls.move_mount(clone, target)


def _make_mount_point(target: str, *, directory: bool) -> None:
    # Only the owner can write to the tree, so there is nobody who could plant a link on the way.
    os.makedirs(target if directory else os.path.dirname(target), 0o755, exist_ok=True)
    if not directory:
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644))


def _remove_mount_point(target: str) -> None:
    try:
        if os.path.isdir(target):
            os.rmdir(target)
        else:
            os.unlink(target)
    except FileNotFoundError:
        pass


def _await_exec(status: int, share: Share) -> None:
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
        raise DaemonError(f"{share.daemon} did not start within {START_TIMEOUT:.0f} s", hint="try again")
    if complaint or not share.running():
        words = complaint.decode("utf-8", "replace")
        raise DaemonError(
            f"{share.daemon} cannot be started: {words or 'it ended at once'}",
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

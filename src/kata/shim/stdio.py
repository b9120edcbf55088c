"""Where a task's standard streams go: FIFOs, a logger's pipes or files, as containerd names them.

Called by `pod` when a process starts. The forms are containerd's (shim behaviour, section 4): a path or `fifo://`,
`binary://` a program that is started and reads pipes, `file://` a file that is appended to.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import stat
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

from kata.errors import KataError
from kata.linux.fds import set_pipe_size
from kata.sandbox.stdio import READ_SIZE, Streams
from kata.shim.kind import SINGLE

if TYPE_CHECKING:
    from kata.sandbox.stdio import Stream
    from kata.shim.kind import Kind

READY_TIMEOUT = 10.0
"""Seconds that a logger has to say that it is ready."""
END_TIMEOUT = 12.0
"""Seconds that a logger has to end after its pipes have ended, before it is killed."""


class StdioError(KataError):
    """A stream cannot be connected."""


def connect(stdin: str, stdout: str, stderr: str, *, container_id: str, namespace: str) -> Streams:
    """The streams that the three names stand for; empty ones are left out. Raises StdioError."""
    try:
        if stdout.startswith("binary://"):
            return _logger_streams(stdout, container_id, namespace)
        if stdout.startswith("file://"):
            path = stdout.removeprefix("file://")
            return Streams(_plain(stdin), FileSink(path), FileSink(path), hold_stdin=True)
        return Streams(_plain(stdin), _fifo(stdout), _fifo(stderr), hold_stdin=True)
    except OSError as error:
        raise StdioError(
            f"a standard stream of {container_id} cannot be opened: {error}", hint="the client makes its FIFOs first"
        ) from error


def require_fifos(kind: Kind, *names: str) -> None:
    """Raise StdioError for a program or file as a stream of a pod's container: its engine gives it FIFOs, always.

    A name that starts a program there did not come from an engine, but through it: from an image's label, once
    (GO-2026-5758). A container of its own may have a logger; its client says which.
    """
    if kind.name == SINGLE:
        return
    for name in names:
        if "://" in name and not name.startswith("fifo://"):
            raise StdioError(f"a container of a pod cannot have {name[:80]!r} for a stream", hint="streams are FIFOs")


def _plain(name: str) -> str:
    return name.removeprefix("fifo://")


def _fifo(name: str) -> HeldFifo | None:
    return HeldFifo(_plain(name)) if name else None


class HeldFifo:
    """A FIFO that we keep open for reading too, so that a client which goes away loses nothing and breaks nothing.

    A later client goes on where the FIFO's buffer begins; while there is none, the container waits as at a pipe.
    One thread writes; `close` may come from any, and the descriptors go with whoever of the two is last.
    """

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        if not stat.S_ISFIFO(os.fstat(self._fd).st_mode):
            os.close(self._fd)
            raise OSError(f"{path} is not a FIFO")
        self._wake = os.eventfd(0, os.EFD_CLOEXEC)
        self._lock = threading.Lock()
        self._writing = False
        self._closed = threading.Event()
        try:
            set_pipe_size(self._fd, READ_SIZE)
        except OSError:
            pass  # the limit of pipe sizes is the host's, and a small one only costs time

    def write(self, stream: Stream, data: bytes) -> None:
        """Write all of `data`, waiting for the client. Raises OSError once it is closed."""
        with self._lock:
            if self._closed.is_set():
                raise BrokenPipeError("the stream is closed")
            self._writing = True
        try:
            self._write(memoryview(data))
        finally:
            with self._lock:
                self._writing = False
                if self._closed.is_set():
                    self._release()

    def close(self) -> None:
        """The client reads end of file; a `write` that waits fails. Idempotent."""
        with self._lock:
            if self._closed.is_set():
                return
            self._closed.set()
            if self._writing:
                os.eventfd_write(self._wake, 1)
            else:
                self._release()

    def _write(self, view: memoryview) -> None:
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                poll = select.poll()
                poll.register(self._fd, select.POLLOUT)
                poll.register(self._wake, select.POLLIN)
                poll.poll()  # ends with a reader, or with close()
            if self._closed.is_set():
                raise BrokenPipeError("the stream is closed")

    def _release(self) -> None:
        os.close(self._fd)
        os.close(self._wake)


class FileSink:
    """Appends to a file."""

    def __init__(self, path: str) -> None:
        # Not blocking, so that a FIFO without a reader is not waited for; a link would lead to somebody else's file.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        self._fd = os.open(path, flags, 0o600)
        mode = os.fstat(self._fd).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISCHR(mode)):
            os.close(self._fd)
            raise OSError(f"{path} is no file")

    def write(self, stream: Stream, data: bytes) -> None:
        """Append all of `data`. Raises OSError."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def close(self) -> None:
        """No more output."""
        os.close(self._fd)


class LoggerPipe:
    """One of the two pipes to a logger; the one that is closed last ends it."""

    def __init__(self, fd: int, logger: _Logger) -> None:
        self._fd = fd
        self._logger = logger

    def write(self, stream: Stream, data: bytes) -> None:
        """Write all of `data`. Raises OSError when the logger is gone."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def close(self) -> None:
        """No more output on this pipe."""
        os.close(self._fd)
        self._logger.release()


class _Logger:
    """A logger's process and how many pipes lead to it."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._users = 2

    def release(self) -> None:
        """One pipe less; at the last one the logger has a while to end by itself."""
        self._users -= 1
        if self._users:
            return
        pidfd = os.pidfd_open(self._pid)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(END_TIMEOUT * 1000):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)
        os.waitpid(self._pid, 0)


def _logger_streams(uri: str, container_id: str, namespace: str) -> Streams:
    """Start a logger: descriptors 3 and 4 are the output, 5 is closed or written to when it is ready."""
    argv = _logger_command(uri)
    environment = {"CONTAINER_ID": container_id, "CONTAINER_NAMESPACE": namespace}
    with ExitStack() as ours, ExitStack() as theirs:
        out = _pipe(reader=theirs, writer=ours)
        err = _pipe(reader=theirs, writer=ours)
        ready = _pipe(reader=ours, writer=theirs)
        try:
            logger = _Logger(_spawn(argv, environment, (out[0], err[0], ready[1])))
        except OSError as error:
            raise StdioError(f"the logger {argv[0]} cannot be started: {error.strerror}") from error
        theirs.close()
        _await_ready(ready[0], argv[0])
        return Streams("", LoggerPipe(os.dup(out[1]), logger), LoggerPipe(os.dup(err[1]), logger))


def _pipe(*, reader: ExitStack, writer: ExitStack) -> tuple[int, int]:
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    reader.callback(os.close, read_end)
    writer.callback(os.close, write_end)
    return read_end, write_end


def _logger_command(uri: str) -> list[str]:
    from urllib.parse import parse_qsl, urlsplit

    parts = urlsplit(uri)
    if not parts.path.startswith("/") or parts.netloc:
        raise StdioError(f"{uri!r} names no program", hint="binary:///path/of/program?name=value")
    words = [parts.path]
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        words += [name, value] if value else [name]
    return words


def _spawn(argv: list[str], environment: dict[str, str], fds: tuple[int, int, int]) -> int:
    """Start the program with `fds` as its descriptors 3 to 5; its process id. Raises OSError."""
    actions: list[tuple[int, int, int] | tuple[int, int, str, int, int]] = [
        (os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in range(3)
    ]
    with ExitStack() as stack:
        for number, fd in enumerate(fds, 3):
            # A copy above all targets: dup2(2) onto itself would leave close-on-exec set.
            copy = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10)
            stack.callback(os.close, copy)
            actions.append((os.POSIX_SPAWN_DUP2, copy, number))
        return os.posix_spawn(argv[0], argv, environment, file_actions=actions, setsid=True)


def _await_ready(fd: int, name: str) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    if not poll.poll(READY_TIMEOUT * 1000):
        raise StdioError(f"the logger {name} was not ready after {READY_TIMEOUT:.0f} s")

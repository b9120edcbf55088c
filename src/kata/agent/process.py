"""One process of a container, its first one or an exec: streams, terminal and exit status.

Made by `container` with the help of `Plumbing`, which holds both sides of the streams until crun has taken
the container's. Never start anything here: that is crun's business.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from typing import NamedTuple

from kata.agent.errors import ContainerError, NoTerminal
from kata.agent.stdio import InputStream, OutputStream, resize
from kata.linux.fds import SharedFd, set_pipe_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.linux.reaper import Exit

CONSOLE_TIMEOUT = 10.0

PIPE_SIZE = 1 << 20
"""Bytes of a standard stream's pipe where `agent.container_pipe_size` says nothing.

A reply carries what the pipe holds, so the kernel's 64 KiB would mean a call for each of them. This is also the most
that is allowed without CAP_SYS_RESOURCE (pipe(7), pipe-max-size); pages are taken only when they are written.
"""


class Streams(NamedTuple):
    """Our sides of a process's streams. With a terminal all is `terminal`, and there is no standard error."""

    stdin: InputStream
    stdout: OutputStream
    stderr: OutputStream | None
    terminal: SharedFd | None


class Process:
    """A process that crun has started (or holds ready to start)."""

    def __init__(self, exec_id: str, ended: Exit, streams: Streams) -> None:
        self.exec_id = exec_id
        self.exit = ended
        self.streams = streams
        self._lock = threading.Lock()
        self._waiters = 0
        self._waited = False
        ended.on_end(streams.stdin.process_ended)
        ended.on_end(streams.stdout.process_ended)
        if streams.stderr is not None:
            ended.on_end(streams.stderr.process_ended)

    def wait(self, timeout: float | None) -> int | None:
        """The exit code, or None when `timeout` seconds pass first."""
        with self._lock:
            self._waiters += 1
        code = self.exit.wait(timeout)
        with self._lock:
            self._waiters -= 1
            self._waited = self._waited or code is not None
        return code

    def spent(self) -> bool:
        """Whether nobody wants anything from it: waited for, nobody waiting, outputs read to the end."""
        streams = self.streams
        read = streams.stdout.finished and (streams.stderr is None or streams.stderr.finished)
        return self._waited and not self._waiters and read

    def read(self, stream: str, size: int) -> bytes | memoryview:
        """Up to `size` bytes of "stdout" or "stderr", as `OutputStream.read` gives them; nothing at the end. Blocks."""
        source = self.streams.stdout if stream == "stdout" else self.streams.stderr
        return b"" if source is None else source.read(size)

    def resize(self, rows: int, columns: int) -> None:
        """Set the terminal's size. Raises NoTerminal."""
        if self.streams.terminal is None:
            raise NoTerminal(f"process {self.exec_id!r} has no terminal")
        with self.streams.terminal.use() as fd:
            resize(fd, rows, columns)

    def close(self) -> None:
        """Give the streams back. Waiting for the exit code goes on working."""
        self.streams.stdin.close()
        self.streams.stdout.close()
        if self.streams.stderr is not None:
            self.streams.stderr.close()


class Plumbing:
    """The streams of a process that crun is about to start. Context manager: what was not taken is closed.

    `stdin`, `stdout`, `stderr` are the container's sides, for crun; `console` is the path of the socket on
    which crun hands over a terminal's master side, or "" when the process has no terminal.
    """

    def __init__(self, *, terminal: bool, folder: str, pipe_size: int = 0) -> None:
        self._open: list[int] = []
        self._listener: socket.socket | None = None
        self._folder = folder
        self.console = ""
        try:
            if terminal:
                self._make_console()
            else:
                self._make_pipes(pipe_size)
        except BaseException:
            self._close()
            raise

    def __enter__(self) -> Plumbing:
        return self

    def __exit__(self, *exc: object) -> None:
        self._close()

    def streams(self) -> Streams:
        """Take our sides, once crun has taken the container's."""
        if self._listener is not None:
            return self._terminal_streams(self._listener)
        ours = [self._own(fd) for fd in self._ours]
        return Streams(
            InputStream(SharedFd(ours[0]), terminal=False),
            OutputStream(SharedFd(ours[1])),
            OutputStream(SharedFd(ours[2])),
            None,
        )

    def _make_pipes(self, size: int) -> None:
        pipes = [os.pipe2(os.O_CLOEXEC) for _ in range(3)]
        for pipe in pipes:
            self._open += pipe
            set_pipe_size(pipe[0], size or PIPE_SIZE)
        self.stdin, self.stdout, self.stderr = pipes[0][0], pipes[1][1], pipes[2][1]
        self._ours = (pipes[0][1], pipes[1][0], pipes[2][0])
        for fd in self._ours:
            os.set_blocking(fd, False)

    def _make_console(self) -> None:
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        self._open.append(null)
        self.stdin = self.stdout = self.stderr = null
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        # Short and unique whatever the exec id is: a socket's path has at most 107 bytes.
        self.console = f"{self._folder}/{os.urandom(6).hex()}"
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self.console)
        self._listener.listen(1)

    def _terminal_streams(self, listener: socket.socket) -> Streams:
        listener.settimeout(CONSOLE_TIMEOUT)
        try:
            connection = listener.accept()[0]
            with connection:
                connection.settimeout(CONSOLE_TIMEOUT)
                master = receive_fd(connection)
        except OSError as error:
            raise ContainerError(f"crun did not hand over the terminal: {error}") from error
        os.set_blocking(master, False)
        shared = SharedFd(master)
        return Streams(InputStream(shared, terminal=True), OutputStream(shared), None, shared)

    def _own(self, fd: int) -> int:
        self._open.remove(fd)
        return fd

    def _close(self) -> None:
        while self._open:
            os.close(self._open.pop())
        if self._listener is not None:
            self._listener.close()
            if os.path.lexists(self.console):
                os.unlink(self.console)


def receive_fd(connection: socket.socket) -> int:
    """One descriptor sent with SCM_RIGHTS, close-on-exec. Raises OSError when none comes."""
    size = struct.calcsize("i")
    _, ancillary, _, _ = connection.recvmsg(4096, socket.CMSG_SPACE(size), socket.MSG_CMSG_CLOEXEC)
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS and len(data) >= size:
            fd: int = struct.unpack_from("i", data)[0]
            return fd
    raise OSError("no descriptor came with the message")

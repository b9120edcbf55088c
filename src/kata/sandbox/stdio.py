"""Standard input and output of one process, between the guest's agent and this host.

A process's output goes to sinks: a FIFO that a client reads, a log file. A client that goes away loses its sink
and nothing else; a client that reads slowly slows its container, as a pipe would. Threads: one an output
stream, one for input; each ends with its stream. Nothing here trusts the guest for more than bytes.
"""

from __future__ import annotations

import contextlib
import os
import select
import stat
import threading
import time
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol, TypeVar

import msgspec

from kata.linux.fds import set_pipe_size

READ_SIZE = 1 << 20
"""Bytes asked for in one ReadStdout, and of a FIFO's buffer: all that a container's pipe holds (kata.agent.process).
Bigger messages cost fewer round trips. 4 MiB is the wire's limit."""

LOG_LIMIT = 8 * 1024 * 1024
"""Bytes in one log file; there are two, so a container's log never takes more than 16 MiB."""
LOG_PIECE = 16 << 10
"""Bytes that are made into lines at once: of empty ones, each is fifty times as long in the log."""
LAST_LIMIT = 32 << 20
"""Bytes of output that may still come once its process has ended: more than any pipe between the two holds."""

Stream = Literal["stdout", "stderr"]
T_co = TypeVar("T_co", covariant=True)


class Asked(Protocol[T_co]):
    """A request to the guest that is under way."""

    def __call__(self) -> T_co:
        """Wait for its answer. Raises SandboxError."""

    def cancel(self) -> None:
        """Let whoever waits have an error, from any thread."""


class StdioPaths(msgspec.Struct, frozen=True):
    """FIFOs that a client made; an empty path is a stream that nobody wants."""

    stdin: str = ""
    stdout: str = ""
    stderr: str = ""


class Sink(Protocol):
    """Where output goes. `write` raises OSError when there is no use in writing more."""

    def write(self, stream: Stream, data: bytes) -> None:
        """Take all of `data`."""

    def close(self) -> None:
        """No more output. Never raises."""


class Streams(NamedTuple):
    """What a process's standard streams are connected to.

    `stdin` is a FIFO to read, empty for no input; with `hold_stdin` the input ends only once `finish_stdin` was called
    and all its writers are gone, so that clients may come and go. `stdout` and `stderr` belong to the process from
    then on; `shared` sinks get both streams and are closed at the process's end.
    """

    stdin: str = ""
    stdout: Sink | None = None
    stderr: Sink | None = None
    shared: tuple[Sink, ...] = ()
    hold_stdin: bool = False


def client_streams(paths: StdioPaths, shared: Sequence[Sink] = ()) -> Streams:
    """The streams of a client that waits at its FIFOs; one that it does not read any more is left out."""
    return Streams(paths.stdin, _client_sink(paths.stdout), _client_sink(paths.stderr), tuple(shared))


def _client_sink(path: str) -> FifoSink | None:
    if not path:
        return None
    try:
        return FifoSink(path)
    except OSError:
        return None


class FifoSink:
    """The write end of a client's FIFO. Raises OSError (ENXIO) when no client has it open for reading."""

    def __init__(self, path: str) -> None:
        self._fd = open_fifo(path, os.O_WRONLY)
        os.set_blocking(self._fd, True)

    def write(self, stream: Stream, data: bytes) -> None:
        """Write all of `data`; blocks while the client is slow, raises BrokenPipeError once it is gone."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def close(self) -> None:
        """The client reads end of file."""
        os.close(self._fd)


class LogSink:
    """A log file in the format of Kubernetes' container runtime interface: `time stream tag text`.

    The tag is F for a whole line and P for a part of one. The file is turned over at `LOG_LIMIT`.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._fd = _open_log(path)
        self._size = os.fstat(self._fd).st_size
        self._closed = False

    def write(self, stream: Stream, data: bytes) -> None:
        """Append `data`, line by line. A full disk loses log lines and never stops the container.

        What comes after `close` is dropped: the descriptor's number may be another file's by then.
        """
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1e9):09d}Z"
        whole, part = f"{stamp} {stream} F ".encode(), f"{stamp} {stream} P ".encode()
        with self._lock:
            for begin in range(0, len(data), LOG_PIECE):
                self._append(_log_lines(data[begin : begin + LOG_PIECE], whole, part))

    def close(self) -> None:
        """No more lines. Idempotent."""
        with self._lock:
            if not self._closed:
                self._closed = True
                os.close(self._fd)

    def _append(self, text: bytes) -> None:
        if self._closed:
            return
        if self._size + len(text) > LOG_LIMIT:
            self._turn_over()
        try:
            self._size += os.write(self._fd, text)
        except OSError:
            pass

    def _turn_over(self) -> None:
        os.close(self._fd)
        os.replace(self._path, self._path + ".1")
        self._fd, self._size = _open_log(self._path), 0


def _log_lines(data: bytes, whole: bytes, part: bytes) -> bytes:
    lines = data.split(b"\n")
    last = lines.pop()
    text = b"".join(whole + line + b"\n" for line in lines)
    return text + part + last + b"\n" if last else text


class OutputPump:
    """Copies one output stream of a process to its sinks until the stream ends.

    It owns `fifo` and closes it at the stream's end; `shared` sinks take other streams too and are their owner's.
    `ask` asks the guest for output. There is always one such question under way, also while a sink is slow, and never
    more: the guest goes on working, and this host holds two pieces at most.
    """

    def __init__(
        self, stream: Stream, ask: Callable[[], Asked[bytes]], fifo: Sink | None, shared: Sequence[Sink]
    ) -> None:
        self._stream: Stream = stream
        self._ask = ask
        self._fifo = fifo
        self._shared = shared
        self._lock = threading.Lock()
        self._asked: Asked[bytes] | None = None
        self._stopped = False
        self._feeding = False
        self._pieces = 0
        self._allowed: int | None = None
        self._thread = threading.Thread(target=self._run, name=f"kata-{stream}", daemon=True)

    def start(self) -> None:
        """Begin copying."""
        self._thread.start()

    def close(self) -> None:
        """Close the FIFO of a pump that never started."""
        self._drop_fifo()

    def join(self, timeout: float) -> None:
        """Wait until the stream ended, at most `timeout` seconds."""
        self._thread.join(timeout)

    def finish(self, timeout: float) -> bool:
        """Wait as `join` does; whether it is over. For a process that has ended: call it until then.

        A client may take its time for what is left. A guest may not: one that sends nothing meanwhile, or never stops
        sending, is asked no more.
        """
        with self._lock:
            before = self._pieces
            self._allowed = LAST_LIMIT if self._allowed is None else self._allowed
        self._thread.join(timeout)
        if not self._thread.is_alive():
            return True
        with self._lock:
            silent = self._pieces == before and not self._feeding
            if not silent and self._allowed >= 0:
                return False
            self._stopped, asked = True, self._asked
        if asked is not None:
            asked.cancel()
        return False

    def _run(self) -> None:
        from kata.sandbox.errors import SandboxError

        try:
            asked = self._next()
            while data := asked():
                asked = self._next()
                self._feed(data)
        except SandboxError:
            pass  # the guest or its agent is gone; whoever waits for the process reports it
        finally:
            self._drop_fifo()

    def _next(self) -> Asked[bytes]:
        asked = self._ask()
        with self._lock:
            self._asked, stopped = asked, self._stopped
        if stopped:
            asked.cancel()
        return asked

    def _feed(self, data: bytes) -> None:
        self._count(len(data), feeding=True)
        for sink in self._shared:
            sink.write(self._stream, data)
        if self._fifo is not None:
            try:
                self._fifo.write(self._stream, data)
            except OSError:
                self._drop_fifo()
        self._count(0, feeding=False)

    def _count(self, size: int, *, feeding: bool) -> None:
        with self._lock:
            self._feeding = feeding
            self._pieces += feeding
            if self._allowed is not None:
                self._allowed -= size

    def _drop_fifo(self) -> None:
        if self._fifo is not None:
            self._fifo.close()
            self._fifo = None


class InputPump:
    """Copies a FIFO to a process's standard input; the FIFO's end closes that input.

    `hold` keeps the FIFO from ending until `finish`: it stays open for writing here.
    """

    def __init__(
        self, path: str, write: Callable[[bytes], Asked[int]], close: Callable[[], None], *, hold: bool
    ) -> None:
        self._fd = open_fifo(path, os.O_RDONLY)
        self._holder = open_fifo(path, os.O_WRONLY) if hold else -1
        self._write = write
        self._close = close
        self._stop_read, self._stop_write = os.pipe2(os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="kata-stdin", daemon=True)
        self._lock = threading.Lock()
        self._asked: Asked[int] | None = None
        self._stopped = False

    def start(self) -> None:
        """Begin copying."""
        self._thread.start()

    def close(self) -> None:
        """Close the FIFO of a pump that never started."""
        self.finish()
        for fd in (self._fd, self._stop_read, self._stop_write):
            os.close(fd)

    def finish(self) -> None:
        """End the input after what its writers have written and will write. Never blocks."""
        with self._lock:
            holder, self._holder = self._holder, -1
        if holder >= 0:
            os.close(holder)

    def stop(self) -> None:
        """Take no more input: the process ended or its input was closed. Never blocks."""
        self.finish()
        with self._lock:
            if not self._stopped:
                self._stopped = True
                os.close(self._stop_write)
            asked = self._asked
        if asked is not None:
            asked.cancel()

    def _run(self) -> None:
        from kata.sandbox.errors import SandboxError

        try:
            while self._wait_for_input():
                data = os.read(self._fd, READ_SIZE)
                if not data:
                    self._close()
                    break
                self._write_all(data)
        except (SandboxError, OSError):
            pass  # the process does not read any more, or is gone
        finally:
            os.close(self._fd)
            os.close(self._stop_read)

    def _wait_for_input(self) -> bool:
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        poll.register(self._stop_read, select.POLLIN)
        return all(fd != self._stop_read for fd, _ in poll.poll())

    def _write_all(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            taken = self._next(bytes(view))()
            if not 0 < taken <= len(view):
                raise OSError("the guest's agent took an impossible number of bytes")
            view = view[taken:]

    def _next(self, data: bytes) -> Asked[int]:
        asked = self._write(data)
        with self._lock:
            self._asked, stopped = asked, self._stopped
        if stopped:
            asked.cancel()
        return asked


def open_fifo(path: str, mode: int) -> int:
    """Open one end of a FIFO without waiting for the other. Raises OSError when `path` is anything else."""
    fd = os.open(path, mode | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    if not stat.S_ISFIFO(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(f"{path} is not a FIFO")
    with contextlib.suppress(OSError):  # the limit of pipe sizes is the host's, and a small one only costs time
        set_pipe_size(fd, READ_SIZE)
    return fd


def _open_log(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

"""The client's side of a process's stdio: FIFOs on disk, copied to and from our own standard streams.

The FIFOs are made before the process is, opened for reading first, and removed as soon as both sides have them
open; so neither side ever waits for the other and nothing is left when either is killed. On a terminal, the
client's is put into raw mode for as long as the process runs, and its size follows.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import struct
import sys
import termios
import threading
import tty
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from kata.ctl.signals import Forwarder
from kata.errors import KataError
from kata.plain import plain
from kata.sandbox.stdio import READ_SIZE, StdioPaths, open_fifo

if TYPE_CHECKING:
    from kata.supervisor.client import Control

PIPE_GRACE = 2.0
"""Seconds for a container to end by itself after its output has lost its reader."""


class Attachment:
    """Our end of one process's stdio. Make it before the process, `begin` after, `finish` at the end."""

    def __init__(self, directory: Path, label: str, *, stdin: bool, terminal: bool) -> None:
        self._on_broken_pipe: Callable[[], None] = lambda: None
        self._failure: OSError | None = None
        self._open: dict[str, int] = {}
        self._paths = {"stdin": "", "stdout": "", "stderr": ""}
        self._threads: list[threading.Thread] = []
        try:
            for stream in ("stdin", "stdout", "stderr"):
                if (stream == "stdin" and not stdin) or (stream == "stderr" and terminal):
                    continue
                self._make(stream, directory / f"{label}.{stream}")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Attachment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def paths(self) -> StdioPaths:
        """Where the FIFOs are, for whoever has the process."""
        return StdioPaths(**self._paths)

    def begin(self) -> None:
        """The process has its ends open: take the names away and copy."""
        self._unlink()
        for stream, fd in (("stdout", 1), ("stderr", 2)):
            if stream in self._open:
                self._start(self._copy_out, self._open.pop(stream), fd)
        if "stdin" in self._open:
            self._start(_copy_in, 0, self._open.pop("stdin"), waited_for=False)

    def stay(
        self, wait: Callable[[], tuple[int, str]], control: Control | None, exec_id: str, *, terminal: bool
    ) -> int:
        """Stay with a process that has been started, to its end as `wait` gives it; returns its exit code.

        `control` takes signals and sizes; None for a sandbox that has ended meanwhile. Raises KataError when a part
        of the output could not be written; that nobody reads it any more is no error, and ends the process.
        """
        with raw_terminal() if terminal else contextlib.nullcontext():
            if control is not None:
                self._on_broken_pipe = partial(end_by_pipe, control, exec_id)
                Forwarder(control, exec_id, terminal_size if terminal else None).start()
            self.begin()
            code, error = wait()
            self.finish()
        if self._failure is not None:
            raise KataError(
                f"output cannot be written: {self._failure.strerror}",
                hint=f"the command itself ended with exit code {code}",
            )
        if error:
            print(plain(f"kata: guest: {error}"), file=sys.stderr)
        return code

    def finish(self, timeout: float = 5.0) -> None:
        """The process ended: wait until its last output is out, at most `timeout` seconds."""
        for thread in self._threads:
            thread.join(timeout)

    def close(self) -> None:
        """Release what was not handed to a copying thread."""
        self._unlink()
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()

    def _make(self, stream: str, path: Path) -> None:
        os.mkfifo(path, 0o600)
        self._paths[stream] = os.fspath(path)
        # Input is opened for both ways: opening for writing alone would wait for a reader, and end of file
        # would come before we have begun.
        self._open[stream] = open_fifo(os.fspath(path), os.O_RDWR if stream == "stdin" else os.O_RDONLY)

    def _unlink(self) -> None:
        for path in self._paths.values():
            if path:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)

    def _copy_out(self, source: int, sink: int) -> None:
        failure = _pump(source, sink)
        if isinstance(failure, BrokenPipeError):
            self._on_broken_pipe()
        elif failure is not None:
            self._failure = failure

    def _start(self, target: Callable[[int, int], None], source: int, sink: int, *, waited_for: bool = True) -> None:
        thread = threading.Thread(target=target, args=(source, sink), daemon=True)
        thread.start()
        if waited_for:
            self._threads.append(thread)


@contextlib.contextmanager
def raw_terminal() -> Iterator[None]:
    """Put our terminal into raw mode and restore it, whatever happens."""
    saved = termios.tcgetattr(0)
    try:
        tty.setraw(0, termios.TCSANOW)
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, saved)


def end_by_pipe(control: Control, exec_id: str) -> None:
    """Nobody reads our output any more: end the process as the kernel would end a local one, by SIGPIPE.

    A container's first process is spared that unless it has a handler, so it is killed when it does not end.
    """
    with contextlib.suppress(KataError):
        if exec_id:
            control.signal(signal.SIGPIPE, exec_id)
        else:
            control.stop(signal.SIGPIPE, PIPE_GRACE)


def terminal_size() -> tuple[int, int]:
    """Rows and columns of our terminal; 24 by 80 where it does not say."""
    try:
        rows, columns, _, _ = struct.unpack("4H", fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8)))
    except OSError:
        rows = columns = 0
    return rows or 24, columns or 80


def require_terminal() -> None:
    """Raise UsageError unless our input and output are a terminal."""
    from kata.ctl.errors import UsageError

    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("-t needs a terminal, and this is not one", hint="leave -t away: -i alone reads a pipe")


def _pump(source: int, sink: int) -> OSError | None:
    """FIFO to our output; what kept it from being written. Poll first: before the other side opens, a read says
    end of file. The FIFO is closed as soon as nothing more is read, so that nobody waits for room in it.
    """
    poll = select.poll()
    poll.register(source, select.POLLIN)
    try:
        while True:
            poll.poll()
            data = os.read(source, READ_SIZE)
            if not data:
                return None
            _write_all(sink, data)
    except OSError as error:
        return error
    finally:
        os.close(source)


def _copy_in(source: int, sink: int) -> None:
    """Our input to the FIFO, until either ends."""
    os.set_blocking(sink, True)
    try:
        while data := os.read(source, READ_SIZE):
            _write_all(sink, data)
    except OSError:
        pass
    finally:
        os.close(sink)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]

"""`kata logs`: what a container has written so far."""

from __future__ import annotations

import argparse
import os
import select
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO

from kata.ctl.errors import UsageError

if TYPE_CHECKING:
    from kata.ctl.terminal import Output
    from kata.sandbox.store import Store

HELP = "show what a container has written"


def configure(parser: argparse.ArgumentParser) -> None:
    """`docker logs`'s options."""
    add = parser.add_argument
    add("-f", "--follow", action="store_true", help="go on until the container ends")
    add("-n", "--tail", metavar="N", default="all", help="only the last N lines")
    add("-t", "--timestamps", action="store_true", help="put the time before each line")
    add("container", metavar="CONTAINER", help="name or id")


def execute(args: argparse.Namespace) -> int:
    """Print the log: standard output to ours, standard error to ours."""
    from kata.ctl.terminal import shown
    from kata.sandbox.reconcile import reconcile
    from kata.sandbox.store import Store
    from kata.supervisor.client import require_own

    if args.tail != "all" and not args.tail.isdigit():
        raise UsageError(f"--tail {args.tail!r} is not a number of lines")
    store = Store()
    reconcile(store)
    record = store.find(args.container)
    require_own(record)
    sandbox_id = record.sandbox.id
    with (
        LogReader(store.directory(sandbox_id) / "container.log") as reader,
        shown(sys.stdout.buffer) as out,
        shown(sys.stderr.buffer) as err,
    ):
        outputs = out, err
        lines = list(reader.lines())
        if args.tail != "all":
            lines = lines[len(lines) - min(int(args.tail), len(lines)) :]
        _show_all(lines, outputs, timestamps=args.timestamps)
        if args.follow:
            _follow(store, sandbox_id, reader, outputs, timestamps=args.timestamps)
    return 0


class LogReader:
    """Reads a log that is being written and turned over, each whole line once, the turned-over file first."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = _open(path.with_name(path.name + ".1")) or _open(path)
        self._begun = b""

    def __enter__(self) -> LogReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def lines(self) -> Iterator[bytes]:
        """The lines that have come since the last time."""
        while True:
            if self._file is None:
                self._file = _open(self._path)
                if self._file is None:
                    return
            for line in self._file:
                self._begun += line
                if line.endswith(b"\n"):
                    yield self._begun
                    self._begun = b""
            if not self._turned_over():
                return

    def _turned_over(self) -> bool:
        """Whether another file has taken the place of the one being read; it is then opened."""
        newer = _open(self._path)
        if newer is None:
            return False
        assert self._file is not None
        if os.fstat(newer.fileno()).st_ino == os.fstat(self._file.fileno()).st_ino:
            newer.close()
            return False
        self._file.close()
        self._file = newer
        return True


def show(line: bytes, outputs: tuple[Output, Output], *, timestamps: bool) -> None:
    """Write one log line (`time stream tag text`) to the output of its stream; a part (P) gets no line end."""
    fields = line.rstrip(b"\n").split(b" ", 3)
    if len(fields) != 4:
        return
    stamp, stream, tag, text = fields
    target = outputs[stream == b"stderr"]
    target.write((stamp + b" " if timestamps else b"") + text + (b"\n" if tag == b"F" else b""))


def _open(path: Path) -> BinaryIO | None:
    try:
        return path.open("rb")
    except FileNotFoundError:
        return None


def _follow(
    store: Store, sandbox_id: str, reader: LogReader, outputs: tuple[Output, Output], *, timestamps: bool
) -> None:
    """Print what is added, until the sandbox ends. Waits on inotify for its folder."""
    from kata.linux.inotify import Inotify

    with Inotify() as notify:
        try:
            notify.watch(os.fspath(store.directory(sandbox_id)))
        except FileNotFoundError:
            return
        alive = True
        while alive:
            # Looked at before reading: what is written before the end is then read after it.
            alive = store.alive(sandbox_id)
            _show_all(reader.lines(), outputs, timestamps=timestamps)
            if alive:
                # The time-out is for a sandbox that was killed: nothing in its folder changes then.
                select.select([notify], [], [], 1.0)
                notify.drain()


def _show_all(lines: Iterable[bytes], outputs: tuple[Output, Output], *, timestamps: bool) -> None:
    for line in lines:
        show(line, outputs, timestamps=timestamps)
    for output in outputs:
        output.flush()

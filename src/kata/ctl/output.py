"""What people and programs see: progress, tables, JSON. Plain text unless a terminal is there to look at it.

Progress goes to standard error, results to standard output. Rich is imported only for a terminal.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from kata.plain import plain

Progress = Callable[[str], None]


@contextlib.contextmanager
def steps(title: str = "") -> Iterator[Progress]:
    """A callable that is told each step: a spinner with the time on a terminal, plain lines otherwise."""
    if sys.stderr.isatty():
        with _spinner(title) as progress:
            yield progress
    else:
        yield lambda text: print(f"kata: {text}", file=sys.stderr, flush=True)


def json_line(value: object) -> None:
    """One JSON document on one line of standard output."""
    print(json.dumps(value, sort_keys=True, default=str))


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns padded with blanks, the way `docker ps` prints them; headers also when there are no rows."""
    cells = [[plain(str(value), instead="?") for value in row] for row in (headers, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headers))]
    for row in cells:
        print("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def size(count: float) -> str:
    """A number of bytes for people: `10.7 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("unreachable")


def age(since: float, now: float | None = None) -> str:
    """How long ago a time (seconds since the epoch) was: `12 seconds`, `3 minutes`."""
    seconds = int((time.time() if now is None else now) - since)
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = seconds // length
            return f"{count} {unit}{'s' if count != 1 else ''}"
    return f"{max(seconds, 0)} second{'s' if seconds != 1 else ''}"


@contextlib.contextmanager
def _spinner(title: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True)
    with console.status(escape(title or "working")) as status:
        yield lambda text: status.update(escape(text))

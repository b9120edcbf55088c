"""Files that a command line names and whose contents are sent to a sandbox."""

from __future__ import annotations

import sys

from kata.ctl.errors import UsageError

LIMIT = 4 << 20
"""Bytes: what one message to an agent may have."""


def read(path: str) -> bytes:
    """All of a file; `-` is standard input. Raises UsageError for one that is empty, missing or too big."""
    try:
        if path == "-":
            data = sys.stdin.buffer.read(LIMIT + 1)
        else:
            with open(path, "rb") as file:
                data = file.read(LIMIT + 1)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > LIMIT:
        raise UsageError(f"{path} has more than {LIMIT >> 20} MiB")
    if not data.strip():
        raise UsageError(f"there is nothing in {'standard input' if path == '-' else path}")
    return data

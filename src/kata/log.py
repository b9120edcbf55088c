"""Log lines as logfmt or JSON on a file descriptor, without the weight of `logging`.

Used by the guest's agent and by the sandbox process, both of which pay for every import. One line is one
write(2), so that lines of several threads and processes do not mix (POSIX promises this for pipes up to
PIPE_BUF, and Linux does it for files opened with O_APPEND).
"""

from __future__ import annotations

import json
import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

LEVELS = {"trace": 0, "debug": 10, "info": 20, "warn": 30, "error": 40, "critical": 50}


class Logger:
    """Writes records with fixed fields; `bind` gives a logger with more of them.

    `level` is the least one written; `style` is "logfmt" or "json". Values are written with str().
    """

    def __init__(self, fd: int, *, level: str = "info", style: str = "logfmt", **fields: object) -> None:
        self.fd = fd
        self.level = LEVELS[level]
        self.style = style
        self.fields = fields
        self.forward: Callable[[dict[str, object]], None] | None = None
        """Gets every record that is written too; it must neither block nor raise. `bind` hands it on."""

    def bind(self, **fields: object) -> Logger:
        """A logger that adds `fields` to every record."""
        child = Logger.__new__(Logger)
        child.fd, child.level, child.style = self.fd, self.level, self.style
        child.fields = {**self.fields, **fields}
        child.forward = self.forward
        return child

    def debug(self, msg: str, **fields: object) -> None:
        """A step that matters only when looking for a fault."""
        self._write("debug", msg, fields)

    def info(self, msg: str, **fields: object) -> None:
        """A step in the life of a sandbox."""
        self._write("info", msg, fields)

    def warn(self, msg: str, **fields: object) -> None:
        """Something unexpected that was worked around."""
        self._write("warn", msg, fields)

    def error(self, msg: str, **fields: object) -> None:
        """Something failed."""
        self._write("error", msg, fields)

    def _write(self, level: str, msg: str, fields: dict[str, object]) -> None:
        if LEVELS[level] < self.level:
            return
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1e6):06d}Z"
        record = {"ts": stamp, "level": level, "msg": msg, **self.fields, **fields}
        try:
            os.write(self.fd, (self._render(record) + "\n").encode("utf-8", "backslashreplace"))
        except OSError:
            pass  # a full disk or a closed console must not take the sandbox down
        if self.forward is not None:
            self.forward(record)

    def _render(self, record: dict[str, object]) -> str:
        if self.style == "json":
            return json.dumps({key: str(value) for key, value in record.items()})
        return " ".join(f"{key}={_logfmt_value(str(value))}" for key, value in record.items())


def _logfmt_value(text: str) -> str:
    if text and not any(char in ' ="\\' or not char.isprintable() for char in text):
        return text
    return json.dumps(text)

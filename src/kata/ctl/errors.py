"""Errors of the command line, and the one place where errors become text and exit codes.

UsageError .... an option or argument is wrong (config)
"""

from __future__ import annotations

import sys

from kata.errors import KataError
from kata.plain import plain

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_RUN_FAILED = 125
EXIT_NOT_RUNNABLE = 126
EXIT_NOT_FOUND = 127
"""125 to 127 mean what they mean for `docker run`: kata failed, the command cannot run, or it is not there."""


class UsageError(KataError):
    """An option or argument is wrong."""

    layer = "config"


def show(error: KataError) -> None:
    """Print an error for people: one line, the hint, then the detail, on standard error.

    There may be words of a guest, an image or a registry in all of them, so nothing but text reaches the terminal.
    """
    print(plain(f"kata: {error.layer}: {error.what}"), file=sys.stderr)
    if hint := error.hint or _advice(error):
        print(plain(f"  hint: {hint}"), file=sys.stderr)
    for line in error.detail.splitlines():
        print(plain(f"  {line}", keep="\t"), file=sys.stderr)


def _advice(error: KataError) -> str:
    """What this command can do about errors of rooms that other front ends use too."""
    from kata.sandbox.errors import CommandNotFoundError, CommandNotRunnableError

    if isinstance(error, CommandNotFoundError | CommandNotRunnableError):
        return "kata run --entrypoint sh looks around"
    return ""


def exit_code(error: KataError, *, container_command: bool) -> int:
    """The exit code for an error; `container_command` for those whose exit code is otherwise a container's."""
    from kata.sandbox.errors import CommandNotFoundError, CommandNotRunnableError

    if container_command:
        if isinstance(error, CommandNotFoundError):
            return EXIT_NOT_FOUND
        if isinstance(error, CommandNotRunnableError):
            return EXIT_NOT_RUNNABLE
        return EXIT_RUN_FAILED
    return EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILED

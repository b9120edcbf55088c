"""Start a zygote for the next asker. Called by one who has found none, when its own work is done."""

from __future__ import annotations

import fcntl
import os
import signal
import sys

from kata.zygote.context import describe, folder, name_of, wanted

WORD = "zygote"
"""The program's first argument when it is to become one."""
LOCK_FD = 3
"""Where the zygote finds the lock that makes it the only one of its context. It is held by being open."""
TITLE_ROOM = 2048
"""Bytes for the command lines that its children show (`serve.Title`), more than paths and ids of containerd's take."""
BACK_TO_DEFAULT = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD, signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


def launch() -> bool:
    """Start one with this program's own command line, unless there is one; whether it was started.

    It does without: a failure costs the next start some time and nothing else, so there is none.
    """
    if not wanted():
        return False
    try:
        os.makedirs(folder(), 0o700, exist_ok=True)
        name = name_of(describe())
        path = os.path.join(folder(), f"{name}.lock")
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _spawn(name, lock)
        finally:
            os.close(lock)
    except OSError:
        return False
    return True


def _spawn(name: str, lock: int) -> None:
    program = sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1]
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        copies = [(os.POSIX_SPAWN_DUP2, null, fd) for fd in (0, 1, 2)]
        os.posix_spawn(
            sys.executable,
            [*program, WORD, folder(), name, " " * TITLE_ROOM],
            {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},  # each asker brings its own, and nobody's secrets may stay here
            file_actions=[*copies, (os.POSIX_SPAWN_DUP2, lock, LOCK_FD)],
            setsid=True,
            setsigmask=[],
            setsigdef=BACK_TO_DEFAULT,
        )
    finally:
        os.close(null)

"""Start a program with posix_spawn(3): no copy of our memory, no subprocess module.

Called by the agent's reaper, which owns every child. The child gets the three standard descriptors it is
given and nothing else (all of ours are close-on-exec), default signal dispositions and an empty signal mask.
Never wait here: who waits for children is decided in one place, `reaper.py`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence

DEFAULTED = [
    signal.SIGPIPE,
    signal.SIGXFSZ,
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGCHLD,
    signal.SIGHUP,
    signal.SIGQUIT,
]
"""Python ignores SIGPIPE and SIGXFSZ, and a program that inherits this never ends when its reader goes away."""


def spawn(argv: Sequence[str], env: Mapping[str, str], stdin: int, stdout: int, stderr: int) -> int:
    """Start `argv` (argv[0] an absolute path) and return its pid. Raises OSError when it cannot be executed.

    The three descriptors stay the caller's.
    """
    moved = [(os.POSIX_SPAWN_DUP2, fd, target) for target, fd in enumerate(_out_of_the_way(stdin, stdout, stderr))]
    return os.posix_spawn(
        argv[0],
        list(argv),
        dict(env),
        file_actions=moved,
        setsigmask=[],
        setsigdef=DEFAULTED,
    )


def spawn_on_terminal(argv: Sequence[str], env: Mapping[str, str], terminal: str) -> int:
    """Start `argv` as the leader of a new session, with the terminal at path `terminal` as its controlling one.

    Returns its pid. Raises OSError.
    """
    # posix_spawn makes the session first and opens afterwards: that open is what makes a terminal the controlling one.
    opened = (os.POSIX_SPAWN_OPEN, 0, terminal, os.O_RDWR, 0)
    copies = [(os.POSIX_SPAWN_DUP2, 0, target) for target in (1, 2)]
    return os.posix_spawn(
        argv[0],
        list(argv),
        dict(env),
        file_actions=[opened, *copies],
        setsid=True,
        setsigmask=[],
        setsigdef=DEFAULTED,
    )


def _out_of_the_way(*fds: int) -> Sequence[int]:
    """The same descriptors; they must lie above 2, or one dup2 would overwrite the source of the next."""
    for target, fd in enumerate(fds):
        if fd < 3 and fd != target:
            raise ValueError(f"descriptor {fd} cannot become {target}: keep 0 to 2 occupied")
    return fds

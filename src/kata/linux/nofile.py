"""How many files a process may have open (RLIMIT_NOFILE), looked at before a sandbox is begun.

One that runs out of them half way fails somewhere, and a QEMU that does is silent: it does not take the connection to
its guest's agent. Called by front ends; asks by sysconf(3), which costs no import.
"""

from __future__ import annotations

import os

from kata.errors import KataError

NEEDED = 64
"""Descriptors that a sandbox takes at most in one process while it starts, and some more for volumes."""


def require_files(needed: int = NEEDED) -> None:
    """Raise KataError when this process may not have so many files open, even after its soft limit was raised."""
    limit = os.sysconf("SC_OPEN_MAX")
    if 0 <= limit < needed and not _raise_limit(needed):
        raise KataError(
            f"this process may open {limit} files, and a sandbox takes {needed}",
            hint="raise the limit: ulimit -n 1024, or LimitNOFILE= of its unit",
        )


def _raise_limit(needed: int) -> bool:
    import resource  # hardly ever

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= hard < needed:  # RLIM_INFINITY is -1
        return False
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    return True

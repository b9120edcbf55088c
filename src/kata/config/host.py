"""What this host has, as far as the configuration depends on it."""

from __future__ import annotations

import os
from typing import NamedTuple


class Host(NamedTuple):
    """CPUs that we may run on, and MiB of memory."""

    cpus: int
    memory_mib: int


def this_host() -> Host:
    """The host that we are on."""
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return Host(len(os.sched_getaffinity(0)), pages * size // 1024**2)

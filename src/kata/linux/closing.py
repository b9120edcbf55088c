"""Descriptors that a forked process has of its parent. Imports nothing: a shim's start pays for it."""

from __future__ import annotations

import os


def close_all_but(*kept: int) -> None:
    """Close all descriptors of this process but these; what its parent holds open must not live as long as it does."""
    for entry in os.listdir("/proc/self/fd"):
        if int(entry) not in kept:
            try:
                os.close(int(entry))
            except OSError:
                continue  # it was the listing's own

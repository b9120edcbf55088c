"""The text that a sandbox's cgroups carry: whose they are and where the others are. Pure.

The owner is the folder of its record: whoever finds a cgroup can look there whether the sandbox lives, whatever state
directory he has himself.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from kata.cgroups.path import Placement

SCOPES = "scopes"
"""A fourth line where the cgroups are systemd's scopes."""


class Marked(NamedTuple):
    """A sandbox, by its folder, and the cgroups that it has made."""

    owner: str
    place: Placement


def mark(owner: str, place: Placement) -> str:
    """What to write on each cgroup of the sandbox."""
    return "\n".join((owner, place.sandbox, place.overhead, *([SCOPES] if place.scopes else [])))


def read_mark(value: bytes) -> Marked | None:
    """Whose a cgroup is, by its mark; None when it says nothing, or nothing that can be looked up."""
    parts = os.fsdecode(value).split("\n")
    if (
        len(parts) < 3
        or not parts[0].startswith("/")
        or not parts[1].startswith("/")
        or parts[3:] not in ([], [SCOPES])
    ):
        return None
    return Marked(parts[0], Placement(parts[1], parts[2], parts[3:] == [SCOPES]))

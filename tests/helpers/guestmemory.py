"""What a guest went on from and where its memory is, as the kernel shows its QEMU (proc(5))."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

MAPPING = re.compile(r"^\S+ rw-(?P<kind>[ps]) \S+ \S+ (?P<inode>\d+) +/memfd:kata-template-(?P<name>\w+)")


class GuestMemory(NamedTuple):
    """The memfd that a guest's memory is: a template's, of the template's `name`, or a "copy" of one.

    `private`: what the guest writes is its own, and the file stays as it is.
    """

    name: str
    inode: int
    private: bool


def guest_memory(pid: int) -> GuestMemory:
    """Of the guest of one QEMU that goes on from a template."""
    found = {
        GuestMemory(entry["name"], int(entry["inode"]), entry["kind"] == "p")
        for entry in map(MAPPING.match, Path(f"/proc/{pid}/maps").read_text().splitlines())
        if entry is not None
    }
    assert len(found) == 1, found
    return found.pop()


def went_on(pid: int) -> bool:
    """Whether a QEMU was started to go on from a saved machine, not to boot."""
    return b"-incoming" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")

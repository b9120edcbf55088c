"""Which process a number means: numbers are used again, a number with its time of start is not. Knows no hypervisor."""

from __future__ import annotations

import os
import select

import msgspec

from kata.linux.startmark import start_time


class ProcessRef(msgspec.Struct, frozen=True):
    """A process that cannot be mistaken for a later one with the same number (`start` as /proc/pid/stat has it)."""

    pid: int
    start: int


def process_ref(pid: int) -> ProcessRef | None:
    """The reference of a living process, or None when there is none."""
    start = start_time(pid)
    return None if start is None else ProcessRef(pid, start)


def lives(reference: ProcessRef) -> bool:
    """Whether this very process is there; one that is a zombie, or about to be, has its number, but does nothing."""
    try:
        pidfd = os.pidfd_open(reference.pid)
    except OSError:
        return False
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        ended = poll.poll(0)
        return not ended and process_ref(reference.pid) == reference
    finally:
        os.close(pidfd)

"""The zygotes of a state directory, as anybody may find them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from kata.zygote.launch import LOCK_FD

TIMEOUT = 60.0


def zygotes(folder: Path) -> list[int]:
    """Those that listen or are about to: they hold the lock of their context."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                target = os.readlink(entry / f"fd/{LOCK_FD}")
            except OSError:
                continue
            if Path(target).parent == folder and target.endswith(".lock"):
                found.append(int(entry.name))
    return found


def await_zygote(folder: Path) -> int:
    """The process id of the zygote, once it listens."""
    deadline = time.monotonic() + TIMEOUT
    while not any(path.is_socket() for path in folder.glob("*")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    (found,) = zygotes(folder)
    return found


def end_zygotes(folder: Path) -> None:
    """End them, and remove what a killed one has left."""
    for pid in zygotes(folder):
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + TIMEOUT
    while zygotes(folder):  # whoever else has to reap them may take his time
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for path in folder.glob("*"):
        path.unlink()

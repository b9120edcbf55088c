"""Hearing of a machine's end while waiting for something else. Called by whoever waits for a guest's agent."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kata.hypervisor.machine import Machine


def ending(machine: Machine) -> threading.Event:
    """Set when the VMM is gone, so that nobody waits for the agent of a dead guest."""
    ended = threading.Event()

    def watch() -> None:
        machine.wait(None)
        ended.set()

    threading.Thread(target=watch, name="kata-watch", daemon=True).start()
    return ended

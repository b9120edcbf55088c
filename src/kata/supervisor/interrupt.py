"""Ask the process that holds a sandbox to take it down, by signal: it hears that at any time, also while it boots.

Used where the control socket is not there yet, or not answered any more.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from kata.hypervisor.processref import process_ref

if TYPE_CHECKING:
    from kata.sandbox.store import Store


def interrupt(store: Store, sandbox_id: str) -> None:
    """Send SIGTERM to the sandbox's process, whose answer to that is in `supervise`. One that is gone is fine."""
    holder = store.holder(sandbox_id)
    if holder is None:
        return
    try:
        pidfd = os.pidfd_open(holder.pid)
    except ProcessLookupError:
        return
    try:
        if process_ref(holder.pid) == holder:
            signal.pidfd_send_signal(pidfd, signal.SIGTERM)
    except ProcessLookupError:
        pass
    finally:
        os.close(pidfd)

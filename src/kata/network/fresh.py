"""A network namespace for a pod whose engine has made none: empty, until somebody puts a network into it.

Engines find it by the process that they are told of, the VMM, and set it up before or after the start (Docker from
26 on). It has no name, so nothing has to be removed: it is gone with the last who holds it.
"""

from __future__ import annotations

import os
import threading

from kata.linux.netns import OWN
from kata.linux.syscalls import CLONE_NEWNET, unshare
from kata.network.errors import NamespaceError


def make_namespace() -> int:
    """A descriptor of a new network namespace; the caller owns it. Raises NamespaceError."""
    made: list[int] = []
    failed: list[OSError] = []

    def make() -> None:  # in a thread that ends: unshare(2) is for the calling thread
        try:
            unshare(CLONE_NEWNET)
            made.append(os.open(OWN, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=make, name="netns", daemon=True)
    thread.start()
    thread.join()
    if failed:
        raise NamespaceError(f"no network namespace can be made for the VM: {failed[0].strerror}") from failed[0]
    return made[0]

"""A network namespace for a pod whose engine has made none: empty, until somebody puts a network into it.

Engines find it by the process that they are told of, the VMM, and set it up before or after the start (Docker from
26 on). It has no name, so nothing has to be removed: it is gone with the last who holds it.
"""

from __future__ import annotations

import os

from kata.linux.apart import apart
from kata.linux.netns import OWN
from kata.linux.syscalls import CLONE_NEWNET, unshare
from kata.network.errors import NamespaceError


def make_namespace() -> int:
    """A descriptor of a new network namespace; the caller owns it. Raises NamespaceError."""

    def make() -> int:
        unshare(CLONE_NEWNET)
        return os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)

    try:
        return apart(make, "netns")
    except OSError as error:
        raise NamespaceError(f"no network namespace can be made for the VM: {error.strerror}") from error

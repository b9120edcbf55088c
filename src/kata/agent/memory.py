"""Memory that the host has added and that this architecture's kernel does not find by itself.

Called by the service for MemHotplugByProbe. Bringing blocks online is `system`'s and the uevent reader's business.
"""

from __future__ import annotations

import os

from kata.agent.errors import BadRequest, Unsupported
from kata.agent.system import MEMORY
from kata.linux.fds import write_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def probe(addresses: Sequence[int], folder: str = MEMORY) -> None:
    """Announce the memory blocks at these physical addresses (Documentation/admin-guide/mm/memory-hotplug.rst).

    Raises Unsupported where the kernel finds memory by itself, BadRequest without an address, OSError.
    """
    if not addresses:
        raise BadRequest("MemHotplugByProbe: no address is given")
    path = f"{folder}/probe"
    if not os.path.exists(path):
        raise Unsupported("this guest's kernel takes no addresses of memory blocks (no memory/probe in sysfs)")
    for address in addresses:
        write_text(path, f"{address:#x}")

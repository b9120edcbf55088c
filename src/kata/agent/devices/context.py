"""What a device handler may use, and reading what a device is in the guest.

Made by the agent once for the sandbox. A handler gets a Device message and this, and nothing of the container's
specification: that is what keeps the update a value. Never add a spec here.
"""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from kata.agent.devices.errors import DeviceError, InvalidDevice
from kata.agent.updates import GuestNode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from kata.agent.devices.hotplug import Hotplug
    from kata.agent.updates import SpecUpdate
    from kata.log import Logger
    from kata.protocol.generated import agent_pb2

    Handler = Callable[[agent_pb2.Device, "DeviceContext"], SpecUpdate]


class CdiSettings(NamedTuple):
    """How CDI devices are looked for: seconds to wait, whether containers' environment may name them, and where."""

    timeout: float = 100.0
    visible: bool = False
    folder: str = "/var/run/cdi"


class DeviceContext(NamedTuple):
    """The sandbox's side of a handler."""

    hotplug: Hotplug
    log: Logger | None = None
    cdi: CdiSettings | None = None
    """None when the container asks for no CDI device."""


def read_node(path: str) -> GuestNode:
    """What the node at `path` is, links followed. Raises DeviceError, InvalidDevice."""
    try:
        info = os.stat(path)
    except OSError as error:
        raise DeviceError(f"VM device path {path} doesn't exist", detail=str(error)) from error
    if stat.S_ISBLK(info.st_mode):
        kind = "b"
    elif stat.S_ISCHR(info.st_mode):
        kind = "c"
    else:
        raise InvalidDevice(f"VM device path {path} is no device")
    return GuestNode(kind, os.major(info.st_rdev), os.minor(info.st_rdev))

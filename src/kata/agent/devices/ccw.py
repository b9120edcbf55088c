"""Device type "blk-ccw": virtio disks on the channel subsystem of IBM Z: `id` is `0.<set>.<device>`.

Called through the registry. Never look at a container's specification here.
"""

from __future__ import annotations

import re

from kata.agent.devices.context import read_node
from kata.agent.devices.errors import InvalidDevice
from kata.agent.updates import SpecUpdate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.agent.devices.context import DeviceContext
    from kata.protocol.generated import agent_pb2

_ID = re.compile(r"0\.([0-3])\.([0-9a-fA-F]{1,4})")


def handle(device: agent_pb2.Device, context: DeviceContext) -> SpecUpdate:
    """Wait for the disk and say what it is in the guest. Raises DeviceError, InvalidDevice, Unsupported."""
    node = context.hotplug.find_ccw_block(parse_id(device.id))
    return SpecUpdate(device.container_path, read_node(node))


def parse_id(text: str) -> str:
    """A device's bus id as the kernel writes it, `0.0.00a1`. Raises InvalidDevice."""
    match = _ID.fullmatch(text)
    if not match:
        raise InvalidDevice(f"{text!r} is no CCW device (0.<0 to 3>.<up to four hexadecimal digits>)")
    return f"0.{match[1]}.{int(match[2], 16):04x}"

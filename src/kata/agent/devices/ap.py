"""Device types "vfio-ap" and "vfio-ap-cold": queues of a crypto adapter of IBM Z; each option is `<card>.<domain>`.

Called through the registry. Queues of a Secure Execution guest, which have to be bound and associated with
secrets, are not set up here. Never look at a container's specification here.
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

NODE = "z90crypt"
_APQN = re.compile(r"([0-9a-f]{2})\.([0-9a-f]{4})")


def handle(device: agent_pb2.Device, context: DeviceContext) -> SpecUpdate:
    """Wait for all queues, then the node through which they are used. Raises DeviceError, InvalidDevice."""
    queues = [parse_queue(option) for option in device.options]
    if not queues:
        raise InvalidDevice("a vfio-ap device names no queue")
    for card, domain in queues:
        context.hotplug.find_ap_queue(card, domain)
    return SpecUpdate(device.container_path, read_node(f"{context.hotplug.dev}/{NODE}"), f"/dev/{NODE}")


def parse_queue(text: str) -> tuple[str, str]:
    """Card and domain of an APQN. Raises InvalidDevice."""
    match = _APQN.fullmatch(text)
    if not match:
        raise InvalidDevice(f"{text!r} is no AP queue (<card>.<domain>, two and four hexadecimal digits)")
    return match[1], match[2]

"""Device type "blk": virtio disks on PCI: `id` is the PCI path.

Called through the registry. Never look at a container's specification here.
"""

from __future__ import annotations

from kata.agent.devices.context import read_node
from kata.agent.updates import SpecUpdate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.agent.devices.context import DeviceContext
    from kata.protocol.generated import agent_pb2


def handle(device: agent_pb2.Device, context: DeviceContext) -> SpecUpdate:
    """Wait for the disk and say what it is in the guest. Raises DeviceError, InvalidDevice."""
    node = context.hotplug.find_pci_block(device.id)
    return SpecUpdate(device.container_path, read_node(node))

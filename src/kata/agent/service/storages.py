"""Requests about volumes, swap space and memory blocks. Their rooms are imported when the first of them comes.

One part of `AgentService`. Each method unpacks its message, calls one room, packs the reply: no decisions here.
"""

from __future__ import annotations

from kata.agent.service.base import Base

TYPE_CHECKING = False
if TYPE_CHECKING:
    from google.protobuf.message import Message

    from kata.protocol.generated import agent_pb2, csi_pb2
    from kata.protocol.server import Call


class Storages(Base):
    """Measured, grown, remounted, swapped on."""

    def get_volume_stats(self, request: agent_pb2.VolumeStatsRequest, call: Call) -> csi_pb2.VolumeStatsResponse:
        """How full a volume is."""
        from kata.agent import volumes

        return volumes.volume_stats(request.volume_guest_path)

    def resize_volume(self, request: agent_pb2.ResizeVolumeRequest, call: Call) -> Message:
        """Grow a volume's file system to its disk."""
        from kata.agent import volumes

        volumes.resize_volume(request.volume_guest_path, request.size)
        return self._done()

    def update_ephemeral_mounts(self, request: agent_pb2.UpdateEphemeralMountsRequest, call: Call) -> Message:
        """Give tmpfs mounts another size."""
        self._sandbox.storages.remount_ephemeral(request.storages)
        return self._done()

    def remove_stale_virtiofs_share_mounts(
        self, request: agent_pb2.RemoveStaleVirtiofsShareMountsRequest, call: Call
    ) -> Message:
        """Have the share's daemon forget what is gone."""
        from kata.agent import volumes

        volumes.refresh_share(self._sandbox.log)
        return self._done()

    def add_swap(self, request: agent_pb2.AddSwapRequest, call: Call) -> Message:
        """Swap on the disk at a PCI path."""
        from kata.agent import swap

        swap.add_swap(request.PCIPath, self._sandbox.hotplug)
        return self._done()

    def add_swap_path(self, request: agent_pb2.AddSwapPathRequest, call: Call) -> Message:
        """Swap on the disk at a path in /dev."""
        from kata.agent import swap

        swap.add_swap_path(request.path, self._sandbox.hotplug)
        return self._done()

    def mem_hotplug_by_probe(self, request: agent_pb2.MemHotplugByProbeRequest, call: Call) -> Message:
        """Announce memory blocks."""
        from kata.agent import memory

        memory.probe(request.memHotplugProbeAddr)
        return self._done()

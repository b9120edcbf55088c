"""Requests about the machine that the sandbox runs in.

One part of `AgentService`. Each method unpacks its message, calls one room, packs the reply: no decisions here.
"""

from __future__ import annotations

import os

from kata.agent import copyfile, system
from kata.agent.service.base import Base
from kata.protocol.generated import agent_pb2
from kata.version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from google.protobuf.message import Message

    from kata.protocol.server import Call


class Guest(Base):
    """Facts, clock, random pool, CPUs and memory, files."""

    def get_guest_details(self, request: agent_pb2.GuestDetailsRequest, call: Call) -> agent_pb2.GuestDetailsResponse:
        """Facts about guest and agent."""
        from kata.agent.devices.registry import HANDLERS as DEVICES
        from kata.agent.storages.registry import HANDLERS as STORAGES

        reply = agent_pb2.GuestDetailsResponse()
        if request.mem_block_size:
            reply.mem_block_size_bytes = system.memory_block_size()
        if request.mem_hotplug_probe:
            reply.support_mem_hotplug_probe = system.can_probe_memory()
        reply.agent_details.version = __version__
        reply.agent_details.init_daemon = os.getpid() == 1
        reply.agent_details.device_handlers.extend(sorted(DEVICES))
        reply.agent_details.storage_handlers.extend(sorted(STORAGES))
        reply.agent_details.supports_seccomp = system.supports_seccomp()
        return reply

    def reseed_random_dev(self, request: agent_pb2.ReseedRandomDevRequest, call: Call) -> Message:
        """Feed the random pool."""
        system.reseed_random(request.data)
        return self._done()

    def set_guest_date_time(self, request: agent_pb2.SetGuestDateTimeRequest, call: Call) -> Message:
        """Set the clock."""
        system.set_clock(request.Sec, request.Usec)
        return self._done()

    def online_cpu_mem(self, request: agent_pb2.OnlineCPUMemRequest, call: Call) -> Message:
        """Bring hot-plugged CPUs and memory online."""
        system.online_cpus(request.nb_cpus)
        if not request.cpu_only:
            system.online_memory()
        return self._done()

    def copy_file(self, request: agent_pb2.CopyFileRequest, call: Call) -> Message:
        """Write one piece of a file."""
        copyfile.copy_file(
            copyfile.Piece(
                request.path,
                request.file_size,
                request.file_mode,
                request.dir_mode,
                request.uid,
                request.gid,
                request.offset,
                request.data,
            )
        )
        return self._done()

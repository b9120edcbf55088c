"""The agent's API: one method a request, which unpacks the message, calls one room, and packs the reply.

Called by the ttrpc server, each request in a thread of its own. Errors become RPC codes in `to_status` and
nowhere else. No state and no decisions here. Requests that are not here are answered UNIMPLEMENTED by the
server.
"""

from __future__ import annotations

import os
import time

from kata.agent import copyfile, errors, stats, system
from kata.agent.sandbox import check_signal
from kata.errors import KataError
from kata.protocol.generated import agent_pb2, health_pb2, types_pb2
from kata.protocol.messages import message
from kata.protocol.status import Code, RpcError
from kata.version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from google.protobuf.message import Message

    from kata.agent.container import Container
    from kata.agent.sandbox import Sandbox
    from kata.protocol.server import Call

PROTOCOL_VERSION = "0.0.1"
STORAGE_DRIVERS = ("virtio-fs", "9p", "blk", "mmioblk", "scsi", "nvdimm", "ephemeral", "local", "overlayfs")

CODES: tuple[tuple[type[BaseException], Code], ...] = (
    (errors.BadRequest, Code.INVALID_ARGUMENT),
    (errors.UnknownProcess, Code.NOT_FOUND),
    (errors.AlreadyExists, Code.ALREADY_EXISTS),
    (errors.WrongState, Code.FAILED_PRECONDITION),
    (errors.NoTerminal, Code.UNAVAILABLE),
    (errors.SandboxGone, Code.UNAVAILABLE),
)


def to_status(error: BaseException) -> RpcError:
    """The RPC error for whatever a handler raised: by `CODES`, everything else INTERNAL with its text."""
    if isinstance(error, RpcError):
        return error
    code = next((code for kind, code in CODES if isinstance(error, kind)), Code.INTERNAL)
    return RpcError(code, describe(error))


def describe(error: BaseException) -> str:
    """One text with all that is known; the client matches words in it, as in "ESRCH: No such process"."""
    if isinstance(error, ProcessLookupError):
        return "ESRCH: No such process"
    if isinstance(error, KataError):
        return "; ".join(part for part in (error.what, error.hint, error.detail) if part)
    return str(error) or type(error).__name__


class AgentService:
    """grpc.AgentService."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._empty = message("google.protobuf.Empty")

    # Section: sandbox

    def create_sandbox(self, request: agent_pb2.CreateSandboxRequest, call: Call) -> Message:
        """Set up what containers share."""
        self._sandbox.create(request)
        return self._done()

    def destroy_sandbox(self, request: agent_pb2.DestroySandboxRequest, call: Call) -> Message:
        """Remove everything; afterwards the agent ends, and as PID 1 the VM with it."""
        self._sandbox.destroy()
        return self._done()

    def get_guest_details(self, request: agent_pb2.GuestDetailsRequest, call: Call) -> agent_pb2.GuestDetailsResponse:
        """Facts about guest and agent."""
        reply = agent_pb2.GuestDetailsResponse()
        if request.mem_block_size:
            reply.mem_block_size_bytes = system.memory_block_size()
        if request.mem_hotplug_probe:
            reply.support_mem_hotplug_probe = system.can_probe_memory()
        reply.agent_details.version = __version__
        reply.agent_details.init_daemon = os.getpid() == 1
        reply.agent_details.storage_handlers.extend(STORAGE_DRIVERS)
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

    def get_oom_event(self, request: agent_pb2.GetOOMEventRequest, call: Call) -> agent_pb2.OOMEvent:
        """Block until something is killed for lack of memory."""
        return agent_pb2.OOMEvent(container_id=self._sandbox.oom.wait(call.cancelled.is_set))

    # Section: containers

    def create_container(self, request: agent_pb2.CreateContainerRequest, call: Call) -> Message:
        """Make a container that waits for StartContainer."""
        self._sandbox.create_container(request)
        return self._done()

    def start_container(self, request: agent_pb2.StartContainerRequest, call: Call) -> Message:
        """Let its command run."""
        self._container(request).start()
        return self._done()

    def remove_container(self, request: agent_pb2.RemoveContainerRequest, call: Call) -> Message:
        """Undo it; `timeout` in seconds, 0 is no limit."""
        self._sandbox.remove_container(request.container_id, request.timeout or None)
        return self._done()

    def pause_container(self, request: agent_pb2.PauseContainerRequest, call: Call) -> Message:
        """Freeze it."""
        self._container(request).pause()
        return self._done()

    def resume_container(self, request: agent_pb2.ResumeContainerRequest, call: Call) -> Message:
        """Thaw it."""
        self._container(request).resume()
        return self._done()

    def update_container(self, request: agent_pb2.UpdateContainerRequest, call: Call) -> Message:
        """Change its limits."""
        from kata.oci.convert import resources_from_proto

        self._container(request).update(resources_from_proto(request.resources))
        return self._done()

    def stats_container(self, request: agent_pb2.StatsContainerRequest, call: Call) -> agent_pb2.StatsContainerResponse:
        """Its statistics."""
        return stats.collect(self._container(request).cgroup)

    # Section: processes

    def exec_process(self, request: agent_pb2.ExecProcessRequest, call: Call) -> Message:
        """Start another process in a container."""
        from kata.agent.updates import translate_process
        from kata.oci.convert import process_from_proto

        container = self._container(request)
        if not request.HasField("process"):
            raise errors.BadRequest("ExecProcess: no process is given")
        process = translate_process(process_from_proto(request.process), self._sandbox.pci_map(request.container_id))
        container.exec(request.exec_id, process)
        return self._done()

    def signal_process(self, request: agent_pb2.SignalProcessRequest, call: Call) -> Message:
        """Send a signal."""
        self._container(request).signal(request.exec_id, check_signal(request.signal))
        return self._done()

    def wait_process(self, request: agent_pb2.WaitProcessRequest, call: Call) -> agent_pb2.WaitProcessResponse:
        """Block until it has ended."""
        container = self._container(request)
        left = None if call.deadline is None else call.deadline - time.monotonic()
        code = container.process(request.exec_id).wait(left)
        if code is None:
            raise RpcError(Code.DEADLINE_EXCEEDED, f"process {request.exec_id!r} still runs")
        container.drop_spent(request.exec_id)
        return agent_pb2.WaitProcessResponse(status=code)

    def write_stdin(self, request: agent_pb2.WriteStreamRequest, call: Call) -> agent_pb2.WriteStreamResponse:
        """Write to standard input; no data is its end."""
        stdin = self._container(request).process(request.exec_id).streams.stdin
        if not request.data:
            stdin.end()
            return agent_pb2.WriteStreamResponse()
        return agent_pb2.WriteStreamResponse(len=stdin.write(request.data))

    def close_stdin(self, request: agent_pb2.CloseStdinRequest, call: Call) -> Message:
        """The end of standard input."""
        self._container(request).process(request.exec_id).streams.stdin.end()
        return self._done()

    def read_stdout(self, request: agent_pb2.ReadStreamRequest, call: Call) -> agent_pb2.ReadStreamResponse:
        """Block until there is output; no data is the end."""
        return self._read(request, "stdout")

    def read_stderr(self, request: agent_pb2.ReadStreamRequest, call: Call) -> agent_pb2.ReadStreamResponse:
        """Likewise; with a terminal there is never any."""
        return self._read(request, "stderr")

    def tty_win_resize(self, request: agent_pb2.TtyWinResizeRequest, call: Call) -> Message:
        """Set the terminal's size."""
        self._container(request).process(request.exec_id).resize(request.row, request.column)
        return self._done()

    # Section: network (the room is imported when the first such request comes)

    def update_interface(self, request: agent_pb2.UpdateInterfaceRequest, call: Call) -> types_pb2.Interface:
        """Set up one interface."""
        from kata.agent import interfaces

        return interfaces.update_interface(request.interface, self._sandbox.hotplug)

    def list_interfaces(self, request: agent_pb2.ListInterfacesRequest, call: Call) -> agent_pb2.Interfaces:
        """All interfaces."""
        from kata.agent import interfaces

        return agent_pb2.Interfaces(Interfaces=interfaces.list_interfaces())

    def update_routes(self, request: agent_pb2.UpdateRoutesRequest, call: Call) -> agent_pb2.Routes:
        """Add routes; the answer is the whole table."""
        from kata.agent import interfaces

        return agent_pb2.Routes(Routes=interfaces.update_routes(request.routes.Routes))

    def list_routes(self, request: agent_pb2.ListRoutesRequest, call: Call) -> agent_pb2.Routes:
        """The main table."""
        from kata.agent import interfaces

        return agent_pb2.Routes(Routes=interfaces.list_routes())

    def add_arp_neighbors(self, request: agent_pb2.AddARPNeighborsRequest, call: Call) -> Message:
        """Add neighbours."""
        from kata.agent import interfaces

        interfaces.add_neighbours(request.neighbors.ARPNeighbors)
        return self._done()

    def _done(self) -> Message:
        return self._empty()

    def _container(self, request: HasContainer) -> Container:
        return self._sandbox.container(request.container_id)

    def _read(self, request: agent_pb2.ReadStreamRequest, stream: str) -> agent_pb2.ReadStreamResponse:
        container = self._container(request)
        data = container.process(request.exec_id).read(stream, request.len)
        if not data:
            container.drop_spent(request.exec_id)
        return agent_pb2.ReadStreamResponse(data=data)


class Health:
    """grpc.Health."""

    def check(self, request: health_pb2.CheckRequest, call: Call) -> health_pb2.HealthCheckResponse:
        """Serving, or there would be no answer."""
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)

    def version(self, request: health_pb2.CheckRequest, call: Call) -> health_pb2.VersionCheckResponse:
        """Versions of protocol and agent."""
        return health_pb2.VersionCheckResponse(grpc_version=PROTOCOL_VERSION, agent_version=__version__)


if TYPE_CHECKING:
    from typing import Protocol

    class HasContainer(Protocol):
        """A request about one container."""

        @property
        def container_id(self) -> str:
            """Its id."""

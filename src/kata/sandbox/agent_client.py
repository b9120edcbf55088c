"""Typed calls to the guest's agent: one method an RPC, with the deadline each deserves.

It believes nothing that the guest says beyond the type of the message (the guest is hostile): answers have a limit,
numbers are checked by whoever uses them, and what a refusal means is for `agent_errors`.
Deadlines are upstream's (shim behaviour, "Agent request timeouts"); calls that wait for a process have none.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from kata.oci import convert
from kata.protocol.client import Client, connect_agent
from kata.protocol.generated import agent_pb2, health_pb2
from kata.protocol.messages import method
from kata.protocol.status import Code, RpcError
from kata.protocol.transport import dial
from kata.sandbox.agent_errors import said, understand
from kata.sandbox.config import Patience
from kata.sandbox.errors import CommandNotFoundError, CommandNotRunnableError, ContainerError, GuestError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from google.protobuf.message import Message

    from kata.oci.spec import LinuxResources, Process
    from kata.protocol.client import Answer
    from kata.protocol.generated import csi_pb2
    from kata.sandbox.config import GuestOptions
    from kata.sandbox.containerplan import ContainerPlan
    from kata.sandbox.errors import SandboxError

AGENT = "grpc.AgentService"
HEALTH = "grpc.Health"
USUAL = -1.0
"""Stands for the seconds that a request may take by the sandbox's configuration."""
METRICS_TIMEOUT = 15.0
"""Seconds; who collects metrics does not wait for long."""

T = TypeVar("T")


class Waiting(Generic[T]):
    """A request under way: calling this waits for its answer, once."""

    __slots__ = ("_answer", "_read")

    def __init__(self, answer: Answer, read: Callable[[Answer], T]) -> None:
        self._answer = answer
        self._read = read

    def __call__(self) -> T:
        """What the answer says. Raises SandboxError."""
        return self._read(self._answer)

    def cancel(self) -> None:
        """Wait no more, from any thread: who does gets an error."""
        self._answer.cancel()


class AgentClient:
    """The agent of one guest. Thread-safe; any number of calls at once."""

    def __init__(
        self,
        client: Client,
        observe: Callable[[str, float], None] | None = None,
        patience: Patience = Patience(),  # noqa: B008 - frozen
    ) -> None:
        self._client = client
        self._observe = observe
        self._patience = patience

    @classmethod
    def connect(
        cls,
        address: str,
        timeout: float,
        cancelled: threading.Event,
        observe: Callable[[str, float], None] | None = None,
        patience: Patience = Patience(),  # noqa: B008 - frozen
    ) -> AgentClient:
        """Wait until the agent at `address` answers. Raises GuestError when it has not in `timeout` seconds.

        `observe` is told of each call: the full name of its request, and how many milliseconds it took.
        """
        try:
            client = connect_agent(lambda: dial(address, min(patience.attempt, timeout)), timeout, cancelled)
            return cls(client, observe, patience)
        except RpcError as error:
            if error.code in (Code.DEADLINE_EXCEEDED, Code.UNAVAILABLE):
                what = f"the guest's agent did not answer within {timeout:.0f} s"
            else:
                what = "the guest's agent does not serve"
            raise GuestError(f"{what} ({error.code.name}: {said(error)})") from error
        except OSError as error:
            raise GuestError(f"the guest's agent cannot be reached ({error})") from error

    def close(self) -> None:
        """End the connection; calls under way fail with GuestError."""
        self._client.close()

    def create_sandbox(
        self,
        sandbox_id: str,
        hostname: str,
        dns: Sequence[str],
        storages: Sequence[agent_pb2.Storage],
        options: GuestOptions,
    ) -> None:
        """Prepare the guest: hostname, resolv.conf, shared namespaces, storages of the whole sandbox, modules."""
        request = agent_pb2.CreateSandboxRequest(
            sandbox_id=sandbox_id,
            hostname=hostname,
            dns=dns,
            storages=storages,
            guest_hook_path=options.hook_path,
            kernel_modules=[agent_pb2.KernelModule(name=words[0], parameters=words[1:]) for words in options.modules],
        )
        self._call("CreateSandbox", request)

    def destroy_sandbox(self, timeout: float) -> None:
        """Ask the agent to sync and power off. A connection that breaks meanwhile is success."""
        try:
            self._call("DestroySandbox", agent_pb2.DestroySandboxRequest(), timeout=timeout)
        except GuestError:
            pass

    def reseed(self, seed: bytes) -> None:
        """Mix these bytes into the guest's random pool, as ones that nobody knows, and have it used at once."""
        self._call("ReseedRandomDev", agent_pb2.ReseedRandomDevRequest(data=seed))

    def set_time(self, now: float) -> None:
        """Set the guest's clock: seconds since the epoch."""
        seconds = int(now)
        request = agent_pb2.SetGuestDateTimeRequest(Sec=seconds, Usec=int((now - seconds) * 1_000_000))
        self._call("SetGuestDateTime", request)

    def create_container(self, container_id: str, plan: ContainerPlan) -> None:
        """Create the container as planned; its process waits for `start_container`."""
        request = agent_pb2.CreateContainerRequest(
            container_id=container_id,
            exec_id=container_id,
            storages=plan.storages,
            devices=plan.devices,
            sandbox_pidns=plan.sandbox_pids,
            shared_mounts=plan.shared_mounts,
            OCI=convert.spec_to_proto(plan.spec),
        )
        self._run_command("CreateContainer", request, plan.spec.get("process", {}), self._patience.create)

    def start_container(self, container_id: str) -> None:
        """Let the container's process run."""
        self._call("StartContainer", agent_pb2.StartContainerRequest(container_id=container_id))

    def remove_container(self, container_id: str, timeout: float) -> None:
        """Kill what is left of the container and take its storages down."""
        request = agent_pb2.RemoveContainerRequest(container_id=container_id, timeout=int(timeout))
        self._call("RemoveContainer", request, timeout=timeout + 5)

    def exec_process(self, container_id: str, exec_id: str, process: Process) -> None:
        """Start one more process in a running container."""
        request = agent_pb2.ExecProcessRequest(
            container_id=container_id, exec_id=exec_id, process=convert.process_to_proto(process)
        )
        self._run_command("ExecProcess", request, process)

    def ask_end(self, container_id: str, exec_id: str) -> Waiting[int]:
        """Ask for the process's end, for hours if need be: its exit code, 128 + signal when killed."""
        request = agent_pb2.WaitProcessRequest(container_id=container_id, exec_id=exec_id)
        return self._begin(
            "WaitProcess", request, lambda answer: cast(agent_pb2.WaitProcessResponse, answer).status, timeout=None
        )

    def signal_process(self, container_id: str, exec_id: str, signal: int, timeout: float | None = None) -> None:
        """Send a signal; SIGKILL to the init process ends every process of the container."""
        request = agent_pb2.SignalProcessRequest(container_id=container_id, exec_id=exec_id, signal=signal)
        self._call("SignalProcess", request, timeout=USUAL if timeout is None else timeout)

    def write_stdin(self, container_id: str, exec_id: str, data: bytes) -> Waiting[int]:
        """Hand `data` to the process. What this gives back waits while its pipe is full: how many bytes were taken."""
        request = agent_pb2.WriteStreamRequest(container_id=container_id, exec_id=exec_id, data=data)
        return self._begin(
            "WriteStdin", request, lambda answer: cast(agent_pb2.WriteStreamResponse, answer).len, timeout=None
        )

    def close_stdin(self, container_id: str, exec_id: str) -> None:
        """End of input for the process."""
        self._call("CloseStdin", agent_pb2.CloseStdinRequest(container_id=container_id, exec_id=exec_id))

    def ask_output(self, container_id: str, exec_id: str, *, stderr: bool, size: int) -> Waiting[bytes]:
        """Ask for up to `size` bytes of output. What this gives back waits for them: once, empty at the stream's end.

        All errors are raised by the waiting. Older agents say the end by an error that contains "eof"; both are
        understood.
        """
        method = "ReadStderr" if stderr else "ReadStdout"

        def data(answer: Message) -> bytes:
            found = cast(agent_pb2.ReadStreamResponse, answer).data
            if len(found) > size:
                raise GuestError(f"the guest's agent answers {method} with {len(found)} bytes, {size} were asked for")
            return found

        def end(error: SandboxError) -> bytes:
            if isinstance(error, ContainerError) and "eof" in error.what.lower():
                return b""
            raise error

        request = agent_pb2.ReadStreamRequest(container_id=container_id, exec_id=exec_id, len=size)
        return self._begin(method, request, data, end, timeout=None)

    def resize(self, container_id: str, exec_id: str, rows: int, columns: int) -> None:
        """Tell a process's terminal its new size."""
        request = agent_pb2.TtyWinResizeRequest(container_id=container_id, exec_id=exec_id, row=rows, column=columns)
        self._call("TtyWinResize", request)

    def pause_container(self, container_id: str) -> None:
        """Freeze every process of the container."""
        self._call("PauseContainer", agent_pb2.PauseContainerRequest(container_id=container_id))

    def resume_container(self, container_id: str) -> None:
        """Let a frozen container go on."""
        self._call("ResumeContainer", agent_pb2.ResumeContainerRequest(container_id=container_id))

    def update_container(self, container_id: str, resources: LinuxResources) -> None:
        """Give the container other limits."""
        message = convert.resources_to_proto(resources)
        self._call("UpdateContainer", agent_pb2.UpdateContainerRequest(container_id=container_id, resources=message))

    def oom_event(self) -> str:
        """Block until some container runs out of memory: its id."""
        response = self._call("GetOOMEvent", agent_pb2.GetOOMEventRequest(), timeout=None)
        return cast(agent_pb2.OOMEvent, response).container_id

    def stats(self, container_id: str) -> agent_pb2.StatsContainerResponse:
        """What the container uses, as the guest counts it."""
        request = agent_pb2.StatsContainerRequest(container_id=container_id)
        return cast(agent_pb2.StatsContainerResponse, self._call("StatsContainer", request))

    def check(self, timeout: float) -> None:
        """Ask whether the agent answers. Raises GuestError when it does not within `timeout` seconds."""
        self._call("Check", health_pb2.CheckRequest(), timeout=timeout, service=HEALTH)

    def metrics(self) -> str:
        """The guest and its agent as Prometheus text; the guest may say anything."""
        response = self._call("GetMetrics", agent_pb2.GetMetricsRequest(), timeout=METRICS_TIMEOUT)
        return cast(agent_pb2.Metrics, response).metrics

    def get_ip_tables(self, *, ipv6: bool) -> bytes:
        """The guest's packet filter, as iptables-save(8) text."""
        response = self._call("GetIPTables", agent_pb2.GetIPTablesRequest(is_ipv6=ipv6))
        return cast(agent_pb2.GetIPTablesResponse, response).data

    def set_ip_tables(self, rules: bytes, *, ipv6: bool) -> bytes:
        """Replace the tables that `rules` name; what the guest's program said."""
        response = self._call("SetIPTables", agent_pb2.SetIPTablesRequest(is_ipv6=ipv6, data=rules))
        return cast(agent_pb2.SetIPTablesResponse, response).data

    def set_policy(self, policy: str) -> None:
        """Replace the policy, if the one before allows that."""
        self._call("SetPolicy", agent_pb2.SetPolicyRequest(policy=policy))

    def copy_file(self, piece: agent_pb2.CopyFileRequest) -> None:
        """Put a piece of a file, a directory or a link into the guest."""
        self._call("CopyFile", piece)

    def volume_stats(self, guest_path: str) -> csi_pb2.VolumeStatsResponse:
        """How full the volume is that the guest has mounted there."""
        request = agent_pb2.VolumeStatsRequest(volume_guest_path=guest_path)
        return cast("csi_pb2.VolumeStatsResponse", self._call("GetVolumeStats", request))

    def resize_volume(self, guest_path: str, size: int) -> None:
        """Grow the volume's file system to its disk, which has `size` bytes or more."""
        self._call("ResizeVolume", agent_pb2.ResizeVolumeRequest(volume_guest_path=guest_path, size=size))

    def guest_details(self) -> agent_pb2.GuestDetailsResponse:
        """Version and abilities of the agent."""
        return cast(
            agent_pb2.GuestDetailsResponse,
            self._call("GetGuestDetails", agent_pb2.GuestDetailsRequest(mem_block_size=True)),
        )

    def online(self, cpus: int, *, memory: bool) -> None:
        """Bring CPUs online until there are `cpus` in all (0: leave them), and all memory that came."""
        request = agent_pb2.OnlineCPUMemRequest(wait=True, nb_cpus=cpus, cpu_only=not memory)
        self._call("OnlineCPUMem", request)

    def remount_ephemeral(self, storages: Sequence[agent_pb2.Storage]) -> None:
        """Give tmpfs mounts of the sandbox other options, their size above all."""
        self._call("UpdateEphemeralMounts", agent_pb2.UpdateEphemeralMountsRequest(storages=storages))

    def update_interface(self, interface: agent_pb2.UpdateInterfaceRequest) -> None:
        """Give an interface of the guest its addresses and bring it up."""
        self._call("UpdateInterface", interface)

    def update_routes(self, routes: agent_pb2.UpdateRoutesRequest) -> None:
        """Add routes to the guest's main table."""
        self._call("UpdateRoutes", routes)

    def add_neighbours(self, neighbours: agent_pb2.ARPNeighbors) -> None:
        """Tell the guest hardware addresses of its neighbours."""
        self._call("AddARPNeighbors", agent_pb2.AddARPNeighborsRequest(neighbors=neighbours))

    def forward(self, name: str, payload: bytes, timeout: float | None) -> bytes:
        """Pass on any request (`service/Method` and its message) as it is; the reply's message.

        For debugging from outside. Raises RpcError: the agent's own words, or INVALID_ARGUMENT for a payload that is
        no such message and UNIMPLEMENTED for a method that no .proto file describes.
        """
        from google.protobuf.message import DecodeError

        try:
            request = method(*name.split("/", 1)).request.FromString(payload)
        except (KeyError, TypeError):
            raise RpcError(Code.UNIMPLEMENTED, f"there is no method {name}") from None
        except DecodeError as error:
            raise RpcError(Code.INVALID_ARGUMENT, f"the payload is no request of {name}: {error}") from None
        return self._client.call(name, request, timeout=timeout).SerializeToString()

    def _run_command(self, method: str, request: Message, process: Process, timeout: float = USUAL) -> None:
        """A call that fails when the program is not there; the error then names it."""
        try:
            self._call(method, request, timeout=timeout)
        except (CommandNotFoundError, CommandNotRunnableError) as error:
            args = process.get("args") or [""]
            raise type(error)(f"{args[0]!r} {error.what}") from error

    def _call(self, method: str, request: Message, *, timeout: float | None = USUAL, service: str = AGENT) -> Message:
        return self._begin(method, request, lambda answer: answer, timeout=timeout, service=service)()

    def _begin(
        self,
        method: str,
        request: Message,
        read: Callable[[Message], T],
        failed: Callable[[SandboxError], T] | None = None,
        *,
        timeout: float | None,
        service: str = AGENT,
    ) -> Waiting[T]:
        """Send a request; what this gives back waits for its response, and raises whatever went wrong.

        `read` says what the response comes to, `failed` what an error does, if not every one is to be raised.
        """
        begin = time.monotonic()
        limit = self._patience.request if timeout == USUAL else timeout

        def wait(answer: Answer) -> T:
            try:
                return read(answer.result())
            except RpcError as error:
                meaning = understand(method, error)
                if failed is None:
                    raise meaning from error
                return failed(meaning)
            finally:
                if self._observe is not None:
                    self._observe(request.DESCRIPTOR.full_name, (time.monotonic() - begin) * 1000)

        return Waiting(self._client.begin(f"{service}/{method}", request, timeout=limit), wait)

"""A sandbox: one virtual machine and the containers in it. The door of this room.

`start` walks a list of steps and `stop` undoes what was done in reverse order; whatever happens in between,
nothing is left behind. Each step's time is kept in `phases` (milliseconds since the start of the step).
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from enum import Enum
from typing import TYPE_CHECKING, cast

from kata import paths
from kata.errors import KataError
from kata.hypervisor.machine import Machine, TapNic
from kata.oci.convert import lost_fields
from kata.sandbox import guest, resources, sharing
from kata.sandbox.blockvolumes import volume_place
from kata.sandbox.bringup import Bringup, Calls
from kata.sandbox.config import PodNetworkConfig
from kata.sandbox.container import Container
from kata.sandbox.containerplan import ContainerPlan, facilities, plan_container
from kata.sandbox.copies import Copies
from kata.sandbox.disks import Disks
from kata.sandbox.errors import ConflictError, ExistsError, NotFoundError
from kata.sandbox.process import ProcessState
from kata.sandbox.provide import Ways, provide
from kata.sandbox.translate import resources_for_guest

if TYPE_CHECKING:
    from kata.cgroups.sandbox import SandboxGroups
    from kata.log import Logger
    from kata.oci.spec import LinuxResources, Spec
    from kata.protocol.generated import csi_pb2
    from kata.sandbox.agent_client import AgentClient
    from kata.sandbox.config import ContainerConfig, SandboxConfig
    from kata.sandbox.podnetwork import PodNetwork
    from kata.sandbox.resize import Resizer
    from kata.storage.share import Share

STOP_TIMEOUT = 5.0
"""Seconds that a guest has to write back its data and power off before its VMM is ended."""


class SandboxState(Enum):
    """Where a sandbox is in its life."""

    NEW = "new"
    RUNNING = "running"
    STOPPED = "stopped"


class Sandbox:
    """One VM with its agent. Methods may be called from any thread; slow ones hold no lock while they wait.

    `observe` is told how long calls to the agent take, see `AgentClient.connect`.
    """

    def __init__(self, config: SandboxConfig, log: Logger, observe: Callable[[str, float], None] | None = None) -> None:
        self.config = config
        self._observe = observe
        self.state = SandboxState.NEW
        self.phases: dict[str, float] = {}
        self.accelerator = ""
        self.failure = ""
        self._log = log
        self._lock = threading.Lock()
        self._undo = contextlib.ExitStack()
        self._containers: dict[str, Container] = {}
        self._releases: dict[str, contextlib.ExitStack] = {}
        self._machine: Machine | None = None
        self._agent: AgentClient | None = None
        self.network: PodNetwork | None = None
        self._share: Share | None = None
        self._holds_data = any(not disk.readonly for disk in config.disks)
        """Whether the guest has, or had, a disk that it may write to."""
        self._copies = Copies(log)
        self._disks: Disks | None = None
        self._groups: SandboxGroups | None = None
        self._resizer: Resizer | None = None

    def start(self) -> None:
        """Boot the VM and prepare its guest. Raises KataError; whatever was begun has then been undone."""
        try:
            with self._timed("network"):
                nics = self._join_network()
            bringup = Bringup(self.config, self._log, self._undo, self._calls())
            spec = bringup.describe(nics, self.network)
            with self._timed("template"):
                # Before the cgroup: a template is nobody's, so its making does not count as this sandbox's.
                restorable = bringup.restorable(spec)
            with self._timed("cgroup"):
                self._enter_cgroup()
            machine, agent, self._disks = bringup.bring_up(spec, restorable)
            self._agent, self.accelerator = agent, machine.accelerator
            self._undo.callback(self._copies.close)
            with self._timed("sandbox"):
                if machine.spec.saved is not None:
                    guest.renew(agent)
                guest.prepare(agent, self.config, lambda: self._enter_network(machine, agent))
            self._follow_containers(machine, agent)
        except BaseException:
            self.stop(graceful=False)
            raise
        self.state = SandboxState.RUNNING

    def create_container(self, config: ContainerConfig) -> Container:
        """Create a container, which then waits for its start; after a failure nothing of it is left."""
        agent, machine = self._running()
        _, disks = self._with_disks()
        if config.id in self._containers:
            raise ExistsError(f"container {config.id} exists already")
        with self._timed("create"), contextlib.ExitStack() as undo:
            plan = plan_container(config, facilities(self.config))
            self._warn_of_losses(config.id, plan)
            self._holds_data |= any(not plug.readonly and not plug.empty_dir for plug in plan.plugs)
            self._make_room(config, plan, undo)
            provide(plan, Ways(agent, self._share, disks, self._copies), undo)
            plan = plan.with_addresses(machine.disk_address)
            agent.create_container(config.id, plan)
            container = Container(agent, config.id, terminal=bool(plan.spec.get("process", {}).get("terminal")))
            with self._lock:
                self._containers[config.id] = container
                self._releases[config.id] = undo.pop_all()
        return container

    def remove_container(self, container_id: str) -> None:
        """Take a container down: in the guest, then what of the host it was given. Idempotent.

        Raises GuestError or ContainerError when the guest does not; the host's part is then done all the same.
        """
        with self._lock:
            container = self._containers.pop(container_id, None)
            release = self._releases.pop(container_id, None)
        try:
            if container is not None and self.state is SandboxState.RUNNING:
                container.remove()
        finally:
            if release is not None:
                release.close()

    def volume_stats(self, volume_path: str) -> csi_pb2.VolumeStatsResponse:
        """How full a direct volume of this sandbox is. Raises NotFoundError, GuestError, ContainerError."""
        agent, disks = self._with_disks()
        disks.volume(volume_path)
        return agent.volume_stats(volume_place(volume_path))

    def resize_volume(self, volume_path: str, size: int) -> None:
        """Grow a direct volume to `size` bytes, disk and file system. Raises KataError."""
        agent, disks = self._with_disks()
        disks.grow(disks.volume(volume_path), size)
        agent.resize_volume(volume_place(volume_path), size)

    def _with_disks(self) -> tuple[AgentClient, Disks]:
        agent, _ = self._running()
        assert self._disks is not None  # made with the machine
        return agent, self._disks

    def update_container(self, container_id: str, limits: LinuxResources) -> None:
        """Give a container other limits, those that are named, and its machine the size for them.

        Raises NotFoundError, ConflictError when it has ended, ContainerError when the guest refuses.
        """
        container = self.container(container_id)

        def apply() -> None:
            container.update(resources_for_guest(limits))

        if self._resizer is None:
            apply()
        else:
            self._resizer.change(container_id, limits, apply)

    def _make_room(self, config: ContainerConfig, plan: ContainerPlan, undo: contextlib.ExitStack) -> None:
        """Let the machine and its place on the host take the container in, as long as that is there."""
        spec = cast("Spec", config.spec)
        limits = spec.get("linux", {}).get("resources", {})
        if self._groups is not None:
            self._groups.allow(resources.device_rules(limits))
        if self._resizer is not None and resources.counts(spec, config.annotations):
            self._resizer.join(config.id, limits, plan.storages)
            undo.callback(self._resizer.leave, config.id)

    def _warn_of_losses(self, container_id: str, plan: ContainerPlan) -> None:
        lost = lost_fields(plan.spec)
        if lost:
            fields = " ".join(field[:100] for field in lost[:20])  # whoever wrote the spec may have had a million
            self._log.warn("the guest will not see a part of the spec", container=container_id, fields=fields)
        for warning in plan.warnings:
            self._log.warn(warning, container=container_id)

    def container(self, container_id: str) -> Container:
        """The container of that id. Raises NotFoundError."""
        with self._lock:
            found = self._containers.get(container_id)
        if found is None:
            raise NotFoundError(f"there is no container {container_id}")
        return found

    @property
    def containers(self) -> list[Container]:
        """Those that were created and not removed."""
        with self._lock:
            return list(self._containers.values())

    @property
    def agent(self) -> AgentClient:
        """The guest's agent. Raises ConflictError unless the sandbox runs."""
        return self._running()[0]

    @property
    def processes(self) -> dict[str, int]:
        """The host processes that belong to this sandbox by what they are, the VMM (`hypervisor`) first."""
        machine, share = self._machine, self._share
        found = {"hypervisor": machine.pid if machine else 0, share.metric if share else "": share.pid if share else 0}
        return {name: pid for name, pid in found.items() if pid}

    @property
    def pids(self) -> list[int]:
        """The host processes that belong to this sandbox, the VMM first."""
        return list(self.processes.values())

    @property
    def agent_url(self) -> str:
        """Where the guest's agent is, as `kata.protocol.transport` has it. Raises ConflictError unless it runs."""
        return self._running()[1].agent_address()

    @property
    def console_url(self) -> str:
        """Where the guest's debug console is. Raises ConflictError when there is none, or no guest."""
        machine = self._running()[1]
        if not self.config.debug_console:
            raise ConflictError(
                f"sandbox {self.config.id[:12]} has no debug console",
                hint="set debug_console_enabled = true in [agent.kata] and start it again",
            )
        return machine.stream_address("debug")

    def wait_end(self, timeout: float | None) -> bool:
        """Wait until the VMM has ended, at most `timeout` seconds; whether it has."""
        machine = self._machine
        return self.state is SandboxState.STOPPED or machine is None or machine.wait(timeout) is not None

    def explain(self, error: str) -> str:
        """Why a process was lost: `error`, or what happened to the VM where that is gone. Nothing for nothing."""
        if not error or self._machine is None:
            return error
        status = self._machine.wait(sharing.GRACE)
        if self.failure or status is None:
            return self.failure or error
        how = f"killed by signal {-status}" if status < 0 else f"exit code {status}"
        return f"the virtual machine ended (QEMU: {how})"

    def stop(self, *, graceful: bool = True) -> None:
        """End everything. A graceful stop lets the guest write back its data first, if it may have any.

        Idempotent; never raises.
        """
        with self._lock:
            undo, self._undo = self._undo, contextlib.ExitStack()
            self.state = SandboxState.STOPPED
        if graceful and self._agent is not None and self._machine is not None and self._may_hold_data():
            with contextlib.suppress(KataError):
                self._agent.destroy_sandbox(STOP_TIMEOUT)
                self._machine.wait(STOP_TIMEOUT)
        undo.close()

    def _may_hold_data(self) -> bool:
        """Whether something that was written in the guest may not have reached the host yet.

        virtio-fs writes through, and what was mapped goes when its process ends (Linux 6.12, fs/fuse/file.c:
        fuse_vma_close): of processes that have ended nothing is left in the guest.
        """
        running = any(container.init.state is not ProcessState.STOPPED for container in self.containers)
        return self._holds_data or (self.config.share and (running or self.config.sharing.way != "virtio-fs"))

    def _running(self) -> tuple[AgentClient, Machine]:
        agent, machine = self._agent, self._machine
        if self.state is SandboxState.STOPPED or agent is None or machine is None:
            raise ConflictError(f"sandbox {self.config.id[:12]} is not running")
        return agent, machine

    def _enter_cgroup(self) -> None:
        """Before anything is started, so that all of it is in there."""
        if self.config.cgroup is None:
            return
        from kata.cgroups.sandbox import SandboxGroups

        def warn(finding: str) -> None:
            self._log.warn("host cgroups", finding=finding)

        self._groups = SandboxGroups(self.config.cgroup, os.fspath(paths.sandboxes_dir() / self.config.id), warn)
        self._undo.callback(self._groups.leave)
        self._groups.enter(resources.source_rules(self.config.hardware.random_source))

    def _follow_containers(self, machine: Machine, agent: AgentClient) -> None:
        from kata.sandbox.resize import Resizer

        daemons = [self._share.pid] if self._share is not None else []
        self._resizer = Resizer(
            self.config, machine, agent, self._groups, self._log, daemons=daemons, ended=self._has_ended
        )
        self._resizer.settle()

    def _has_ended(self, container_id: str) -> bool:
        with self._lock:
            container = self._containers.get(container_id)
        return container is not None and container.init.state is ProcessState.STOPPED

    def _start_share(self, undo: contextlib.ExitStack) -> sharing.Exports:
        if not self.config.share:
            return sharing.Exports()
        self._share, exports = sharing.start(self.config.sharing, os.fspath(paths.vm_dir() / self.config.id))
        undo.callback(self._share.close)
        return exports

    def _join_network(self) -> tuple[TapNic, ...]:
        if not isinstance(self.config.network, PodNetworkConfig):
            return ()
        from kata.sandbox.podnetwork import PodNetwork

        config = self.config
        queues = 1 if config.template else config.vcpus  # the NIC of a template has one
        self.network = PodNetwork(self.config.network, queues, Bringup.directory(config, self._undo))
        return self.network.join(self._undo)

    def _enter_network(self, machine: Machine, agent: AgentClient) -> None:
        if self.network is not None:
            self.network.enter(machine, agent, self._log, self._undo)

    def _calls(self) -> Calls:
        return Calls(
            share=self._start_share,
            started=self._machine_started,
            failure=lambda: self.failure,
            timed=self._timed,
            observe=self._observe,
        )

    def lose(self, why: str, said: str = "") -> None:
        """End a guest with which nothing can be done any more, and remember why; `said` is for the log.

        One whose file daemon is gone waits at its volumes for ever, one whose agent is gone can be told nothing.
        """
        if self.state is not SandboxState.STOPPED and self._machine is not None:
            self.failure = why
            self._log.error(why, said=said)
            self._machine.stop()

    def _machine_started(self, machine: Machine) -> None:
        """From now on whoever asks is told of this one, though its guest does not answer yet."""
        self._machine = machine
        if self.config.log_console:
            machine.follow_console(lambda line: self._log.info("reading guest console", vmconsole=line))
        if self._share is not None:
            sharing.watch(self._share, machine, self.lose)

    @contextlib.contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        begin = time.monotonic()
        try:
            yield
        finally:
            self.phases[phase] = round((time.monotonic() - begin) * 1000, 1)
            self._log.info("step", phase=phase, ms=self.phases[phase])

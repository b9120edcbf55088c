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
from kata.hypervisor import registry
from kata.hypervisor.identity import claim_identity
from kata.hypervisor.machine import Machine, MachineSpec, SharedDirectory, TapNic
from kata.oci.convert import lost_fields
from kata.sandbox import guest, resources
from kata.sandbox.blockvolumes import volume_place
from kata.sandbox.config import PodNetworkConfig
from kata.sandbox.container import Container
from kata.sandbox.containerplan import ContainerPlan, plan_container
from kata.sandbox.disks import Disks
from kata.sandbox.errors import ConflictError, ExistsError, GuestError, NotFoundError
from kata.sandbox.process import ProcessState
from kata.sandbox.provide import provide
from kata.sandbox.translate import resources_for_guest
from kata.sandbox.updates import Facilities

if TYPE_CHECKING:
    from kata.cgroups.sandbox import SandboxGroups
    from kata.log import Logger
    from kata.oci.spec import LinuxResources, Spec
    from kata.protocol.generated import csi_pb2
    from kata.sandbox.agent_client import AgentClient
    from kata.sandbox.config import ContainerConfig, SandboxConfig
    from kata.sandbox.podnetwork import PodNetwork
    from kata.sandbox.resize import Resizer
    from kata.storage.virtiofs import VirtiofsShare

SHARE_GRACE = 1.0
"""Seconds within which a VMM that took its file daemon with it has ended."""
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
        self._share: VirtiofsShare | None = None
        self._disks: Disks | None = None
        self._groups: SandboxGroups | None = None
        self._resizer: Resizer | None = None

    def start(self) -> None:
        """Boot the VM and prepare its guest. Raises KataError; whatever was begun has then been undone."""
        try:
            with self._timed("cgroup"):
                self._enter_cgroup()
            with self._timed("share"):
                shares = self._start_share()
            with self._timed("network"):
                network, nics = self._join_network()
            with self._timed("vmm"):
                machine = self._boot(shares, nics)
            if network is not None:
                network.hand_over()
            with self._timed("guest"):
                agent = self._connect(machine)
            with self._timed("sandbox"):
                guest.prepare(agent, self.config, network)
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
            plan = plan_container(config, Facilities(share=self._share is not None, shm=self.config.shm_bytes > 0))
            self._warn_of_losses(config.id, plan)
            self._make_room(config, plan, undo)
            provide(plan, agent, disks, self._share, undo)
            plan = plan.with_addresses(machine.disk_address)
            agent.create_container(config.id, plan.spec, plan.storages, plan.devices, sandbox_pids=plan.sandbox_pids)
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
            self._log.warn("the guest will not see a part of the spec", container=container_id, fields=" ".join(lost))
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
        found = {"hypervisor": machine.pid if machine else 0, "virtiofsd": share.pid if share else 0}
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
        status = self._machine.wait(SHARE_GRACE)
        if self.failure or status is None:
            return self.failure or error
        how = f"killed by signal {-status}" if status < 0 else f"exit code {status}"
        return f"the virtual machine ended (QEMU: {how})"

    def stop(self, *, graceful: bool = True) -> None:
        """End everything. A graceful stop lets the guest write back its data first. Idempotent; never raises."""
        with self._lock:
            undo, self._undo = self._undo, contextlib.ExitStack()
            self.state = SandboxState.STOPPED
        if graceful and self._agent is not None and self._machine is not None:
            with contextlib.suppress(KataError):
                self._agent.destroy_sandbox(STOP_TIMEOUT)
                self._machine.wait(STOP_TIMEOUT)
        undo.close()

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

        self._groups = SandboxGroups(self.config.cgroup, self.config.id, warn)
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

    def _start_share(self) -> tuple[SharedDirectory, ...]:
        if not self.config.share:
            return ()
        from kata.storage.virtiofs import start_share

        self._share = start_share(self._vm_directory())
        self._undo.callback(self._share.close)
        return (SharedDirectory(self._share.tag, self._share.socket_path),)

    def _join_network(self) -> tuple[PodNetwork | None, tuple[TapNic, ...]]:
        if not isinstance(self.config.network, PodNetworkConfig):
            return None, ()
        from kata.sandbox.podnetwork import PodNetwork

        network = PodNetwork(self.config.network)
        return network, network.join(self.config.vcpus, self._undo)

    def _boot(self, shares: tuple[SharedDirectory, ...], nics: tuple[TapNic, ...]) -> Machine:
        machine = registry.create("qemu", self._machine_spec(shares, nics))
        self._machine = machine
        self._disks = Disks(self.config.id, machine, self.config.disk_drivers)
        self._undo.callback(self._disks.close)
        self._undo.callback(machine.close)
        machine.boot()
        if self.config.log_console:
            machine.follow_console(lambda line: self._log.info("reading guest console", vmconsole=line))
        if self._share is not None:
            threading.Thread(target=self._watch_share, args=(self._share, machine), daemon=True).start()
        self.accelerator = machine.accelerator
        return machine

    def _watch_share(self, share: VirtiofsShare, machine: Machine) -> None:
        """A guest whose file daemon is gone waits at its volumes for ever: end it, and remember why.

        The daemon ends by itself after its VMM, and that is not what ended the VMM.
        """
        share.wait()
        if self.state is not SandboxState.STOPPED and machine.wait(SHARE_GRACE) is None:
            self.failure = "virtiofsd ended, which served the volumes"
            self._log.error(self.failure, said=share.messages())
            machine.stop()

    def _machine_spec(self, shares: tuple[SharedDirectory, ...], nics: tuple[TapNic, ...]) -> MachineSpec:
        config, directory = self.config, self._vm_directory()
        identity = claim_identity(directory)
        self._undo.callback(identity.release)
        return MachineSpec(
            sandbox_id=config.id,
            directory=directory,
            kernel=config.assets.kernel,
            initrd=config.assets.initrd,
            image=config.assets.image,
            kernel_params=config.kernel_params,
            vcpus=config.vcpus,
            memory_mib=config.memory_mib,
            machine_type=config.machine_type,
            accelerator=config.accelerator,
            pcie_root_ports=config.root_ports,
            scsi_controller="scsi" in config.disk_drivers,
            transport=config.transport,
            debug_console=config.debug_console,
            disks=config.disks,
            network=guest.nic(config),
            nics=nics,
            shares=shares,
            max_vcpus=config.sizing.max_vcpus,
            max_memory_mib=config.sizing.max_memory_mib,
            memory_slots=config.sizing.memory_slots,
            balloon=config.balloon,
            preallocate=config.preallocate,
            hugepages=config.hugepages,
            disk_options=config.disk_options,
            hardware=config.hardware,
            uid=identity.uid,
            gid=identity.gid,
        )

    def _vm_directory(self) -> str:
        directory = paths.vm_dir() / self.config.id
        if not directory.is_dir():
            directory.mkdir(mode=0o700, parents=True)
            self._undo.callback(directory.rmdir)
        return os.fspath(directory)

    def _connect(self, machine: Machine) -> AgentClient:
        from kata.sandbox.agent_client import AgentClient

        cancelled = threading.Event()
        threading.Thread(target=_watch, args=(machine, cancelled), name="kata-watch", daemon=True).start()
        try:
            agent = AgentClient.connect(machine.agent_address(), self.config, cancelled, self._observe)
        except GuestError as error:
            raise self._boot_failure(machine, error) from error
        self._agent = agent
        self._undo.callback(agent.close)
        return agent

    def _boot_failure(self, machine: Machine, error: GuestError) -> GuestError:
        if self.failure:
            return GuestError(self.failure, hint="start it again; the volumes' files are unharmed")
        console = machine.console_tail()
        stopped = machine.wait(0) is not None
        return GuestError(
            "the guest stopped before its agent answered" if stopped else error.what,
            hint=f"give it more memory (it has {self.config.memory_mib} MiB), fewer CPUs (it has {self.config.vcpus})"
            f" or more time (--boot-timeout {self.config.boot_timeout:.0f}), or look at the console below",
            detail=f"guest console:\n{console}" if console else "the guest's console is empty",
        )

    @contextlib.contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        begin = time.monotonic()
        try:
            yield
        finally:
            self.phases[phase] = round((time.monotonic() - begin) * 1000, 1)
            self._log.info("step", phase=phase, ms=self.phases[phase])


def _watch(machine: Machine, ended: threading.Event) -> None:
    """Say when the VMM is gone, so that nobody waits for the agent of a dead guest."""
    machine.wait(None)
    ended.set()

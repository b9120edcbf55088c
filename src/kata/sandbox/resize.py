"""The machine follows its containers: limits are added up, a plan is made, and its steps are carried out here.

Made by `sandbox` at boot, called whenever a container comes, changes or goes. A machine that cannot follow stays as it
is, with a line in the log: the containers' own limits hold in the guest whatever its size. One change at a time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from kata.errors import KataError
from kata.protocol.generated import agent_pb2
from kata.sandbox import resources as limits_of
from kata.sandbox.resources import MIB, Workload
from kata.sandbox.sizing import AddCpus, AddMemory, Bounds, RemoveCpus, SetBalloon, Size, State, Step, after, plan
from kata.sandbox.turn import Turn

if TYPE_CHECKING:
    from kata.cgroups.sandbox import SandboxGroups
    from kata.hypervisor.machine import Machine
    from kata.log import Logger
    from kata.oci.spec import LinuxResources
    from kata.sandbox.agent_client import AgentClient
    from kata.sandbox.config import SandboxConfig

TURN_TIMEOUT = 120.0
BLOCKS = range(1, (64 << 10) + 1)
"""MiB of a memory block that a guest may name; it decides how much of the host's memory is plugged in."""


class Member(NamedTuple):
    """A container's limits, and its tmpfs mounts that are as large as the guest's memory."""

    limits: LinuxResources
    volumes: tuple[agent_pb2.Storage, ...] = ()


class Resizer:
    """The size of one running machine. Thread-safe. Nothing raises but a turn that never came (ConflictError)."""

    def __init__(
        self,
        config: SandboxConfig,
        machine: Machine,
        agent: AgentClient,
        groups: SandboxGroups | None,
        log: Logger,
        *,
        daemons: Sequence[int] = (),
        ended: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._config = config
        self._sizing = config.sizing
        self._machine = machine
        self._agent = agent
        self._groups = groups
        self._log = log
        self._daemons = daemons
        self._ended = ended
        self._turn = Turn("change of the machine's size", TURN_TIMEOUT)
        self._members: dict[str, Member] = {}
        self._state = State(Size(config.vcpus, config.memory_mib), config.memory_mib)
        self._announced = Workload(self._sizing.announced_vcpus, self._sizing.announced_memory_mib)
        self._block_mib: int | None = None
        self._more_cpus = machine.accelerator == "kvm"
        """Under TCG guests refuse CPUs that come (Linux from 6.9 on, without a hypervisor that it knows)."""

    def settle(self) -> None:
        """Give the machine's threads their places on the host, for the first time."""
        with self._turn:
            self._place()

    def join(self, container_id: str, limits: LinuxResources, storages: Sequence[agent_pb2.Storage]) -> None:
        """A container is about to be created: make room for it."""
        volumes = tuple(storage for storage in storages if _follows_memory(storage))
        with self._turn:
            self._members[container_id] = Member(limits, volumes)
            self._follow()

    def change(self, container_id: str, new: LinuxResources, apply: Callable[[], None]) -> None:
        """A container gets other limits by `apply`, whose error is passed on, and changes nothing then.

        What grows, grows before, and what shrinks, shrinks after it.
        """
        with self._turn:
            old = self._members.get(container_id, Member({}))
            self._members[container_id] = old._replace(limits=limits_of.updated(old.limits, new))
            announced, self._announced = self._announced, Workload()  # what was said beforehand is no longer true
            self._resize(_larger(self._state.size, self._wanted()))
            try:
                apply()
            except BaseException:
                self._members[container_id], self._announced = old, announced
                self._follow()
                raise
            self._follow()

    def leave(self, container_id: str) -> None:
        """A container is gone."""
        with self._turn:
            if self._members.pop(container_id, None) is not None:
                self._follow()

    # Section: what should be

    def _follow(self) -> None:
        self._resize(self._wanted())
        if self._groups is not None:
            self._groups.limit(limits_of.host_limits(self._limits(), self._sizing.own_vcpus))
        self._pin()

    def _wanted(self) -> Size:
        sizing = self._sizing
        if not sizing.follows:
            return self._state.size
        work = self._workload()
        return Size(
            limits_of.vcpus(sizing.own_vcpus, work, sizing.max_vcpus),
            limits_of.memory_mib(sizing.own_memory_mib, work, sizing.max_memory_mib),
        )

    def _workload(self) -> Workload:
        """What the containers may use; not less than was announced, until they are all there."""
        work = limits_of.of_containers(self._limits())
        if work.cpus >= self._announced.cpus and work.memory_mib >= self._announced.memory_mib:
            self._announced = Workload()
        return Workload(max(work.cpus, self._announced.cpus), max(work.memory_mib, self._announced.memory_mib))

    def _limits(self) -> list[LinuxResources]:
        return [member.limits for name, member in self._members.items() if not self._ended(name)]

    # Section: doing it

    def _resize(self, wanted: Size) -> None:
        if wanted == self._state.size:
            return
        before = self._state
        for step in plan(self._state, wanted, self._bounds(wanted)):
            try:
                self._carry_out(step)
            except KataError as error:
                self._log.warn("the machine cannot follow its containers", step=step, error=error)
                break
        if self._state == before:
            return
        self._log.info("resized", vcpus=self._state.size.vcpus, memory_mib=self._state.size.memory_mib)
        if self._state.size.vcpus != before.size.vcpus:
            self._place()
        if self._state.plugged_mib != before.plugged_mib:
            self._remount()

    def _bounds(self, wanted: Size) -> Bounds:
        sizing = self._sizing
        cpus = sizing.max_vcpus if self._more_cpus else self._state.size.vcpus
        if wanted.vcpus > cpus:
            self._log.info("this guest takes no more CPUs while it runs", vcpus=cpus, wanted=wanted.vcpus)
        return Bounds(
            Size(cpus, sizing.max_memory_mib),
            least_vcpus=self._config.vcpus,
            block_mib=self._block(),
            slots=self._machine.free_memory_slots(),
            balloon=self._config.balloon,
        )

    def _block(self) -> int:
        """MiB of the guest's memory blocks, asked for once; 0 when it says nothing that could be true."""
        if self._block_mib is None:
            try:
                found = self._agent.guest_details().mem_block_size_bytes // MIB
            except KataError as error:
                self._log.warn("the guest does not say how memory can be added", error=error)
                return 0
            self._block_mib = found if found in BLOCKS else 0
        return self._block_mib

    def _carry_out(self, step: Step) -> None:
        if isinstance(step, AddMemory):
            self._machine.add_memory(step.mib)
            self._state = after(self._state, step)
            self._agent.online(0, memory=True)
        elif isinstance(step, SetBalloon):
            self._machine.set_balloon(step.mib)
            self._state = after(self._state, step)
        elif isinstance(step, AddCpus):
            self._add_cpus(step)
        elif isinstance(step, RemoveCpus):
            removed = self._machine.remove_vcpus(step.fewer)
            self._state = after(self._state, RemoveCpus(removed))

    def _add_cpus(self, step: AddCpus) -> None:
        self._machine.add_vcpus(step.more)
        try:
            self._agent.online(step.total, memory=False)
        except KataError:
            self._more_cpus = False  # it would refuse the next ones too
            raise
        self._state = after(self._state, step)

    def _remount(self) -> None:
        """Memory volumes without a size of their own are as large as the guest's memory, as upstream has them."""
        size = f"size={self._state.plugged_mib * MIB}"
        storages = [_resized(volume, size) for member in self._members.values() for volume in member.volumes]
        if storages:
            try:
                self._agent.remount_ephemeral(storages)
            except KataError as error:
                self._log.warn("memory volumes keep their size", error=error)

    # Section: the host's side

    def _threads(self) -> tuple[int, ...]:
        try:
            return tuple(dict.fromkeys(self._machine.vcpu_threads()))  # under TCG one runs them all
        except KataError as error:
            self._log.warn("the VMM does not say which threads run the guest's CPUs", error=error)
            return ()

    def _place(self) -> None:
        if self._groups is not None:
            self._groups.settle(self._threads(), self._daemons)

    def _pin(self) -> None:
        """One thread to one CPU when there are as many of each; else all of them to the whole set."""
        if not self._sizing.pin_vcpus:
            return
        cpus, threads = sorted(limits_of.cpuset(self._limits())), self._threads()
        if not cpus:
            return
        single = len(cpus) == len(threads)
        for number, thread in enumerate(threads):
            try:
                os.sched_setaffinity(thread, [cpus[number]] if single else cpus)
            except OSError as error:
                self._log.warn("a CPU of the guest cannot be pinned", cpus=cpus, error=error)


def _larger(one: Size, other: Size) -> Size:
    return Size(max(one.vcpus, other.vcpus), max(one.memory_mib, other.memory_mib))


def _follows_memory(volume: agent_pb2.Storage) -> bool:
    """A tmpfs that nobody has given a size."""
    sized = any(option.startswith("size=") for option in volume.options)
    return volume.driver == "ephemeral" and volume.fstype == "tmpfs" and not sized


def _resized(volume: agent_pb2.Storage, size: str) -> agent_pb2.Storage:
    """The same mount with another size; whose it is, was settled when it was made."""
    options = [option for option in volume.options if not option.startswith("fsgid=")]
    return agent_pb2.Storage(
        driver=volume.driver,
        source=volume.source,
        fstype=volume.fstype,
        mount_point=volume.mount_point,
        options=[*options, size],
    )

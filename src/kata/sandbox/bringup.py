"""From a sandbox's configuration to a machine whose agent answers: from a template, else by a boot.

Called by `sandbox` while it starts. Everything made here is undone by the stack that it was pushed on.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from kata import paths
from kata.hypervisor import registry
from kata.hypervisor.ending import ending
from kata.hypervisor.errors import HypervisorError
from kata.hypervisor.identity import claim_identity
from kata.hypervisor.machine import MachineSpec
from kata.sandbox import guest, sharing
from kata.sandbox.disks import Disks
from kata.sandbox.errors import GuestError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from kata.hypervisor.identity import Identity
    from kata.hypervisor.machine import Machine, TapNic
    from kata.log import Logger
    from kata.sandbox.agent_client import AgentClient
    from kata.sandbox.config import SandboxConfig
    from kata.sandbox.podnetwork import PodNetwork
    from kata.sandbox.sharing import Exports

RESTORE_TIMEOUT = 30.0
"""Seconds in which a restored guest answers, if it ever does; it takes a tenth of one."""


class Up(NamedTuple):
    """A machine that runs, its guest's agent, and the disks that will come to it."""

    machine: Machine
    agent: AgentClient
    disks: Disks


class Calls(NamedTuple):
    """What is asked of the sandbox, and told to it, meanwhile.

    `share` starts the daemon that serves it files, for each machine that is tried; the stack ends it. `started` is told
    of a machine before its guest answers. `failure` says what else has ended the machine, if something has. `timed`
    measures a phase, `observe` the calls to the agent (see `AgentClient.connect`).
    """

    share: Callable[[ExitStack], Exports]
    started: Callable[[Machine], None]
    failure: Callable[[], str]
    timed: Callable[[str], AbstractContextManager[object]]
    observe: Callable[[str, float], None] | None


class Bringup:
    """One sandbox's machine on its way. `undo` takes everything back."""

    def __init__(self, config: SandboxConfig, log: Logger, undo: ExitStack, calls: Calls) -> None:
        self._config = config
        self._log = log
        self._undo = undo
        self._calls = calls

    @staticmethod
    def directory(config: SandboxConfig, undo: ExitStack) -> str:
        """The folder of the sandbox's VM, made where it is missing."""
        directory = paths.vm_dir() / config.id
        if not directory.is_dir():
            directory.mkdir(mode=0o700, parents=True)
            undo.callback(directory.rmdir)
        return os.fspath(directory)

    def describe(self, nics: tuple[TapNic, ...], network: PodNetwork | None) -> MachineSpec:
        """The machine that the sandbox would boot, with a folder and a user id of its own. Raises IdentityError."""
        directory = self.directory(self._config, self._undo)
        identity = claim_identity(directory)
        self._undo.callback(identity.release)
        spec = machine_spec(self._config, directory, nics, identity)
        return spec if network is None else network.place(spec)

    def restorable(self, spec: MachineSpec) -> MachineSpec:
        """The machine as one that goes on from a template; `spec` itself when it has to boot. Raises FactoryError."""
        config = self._config
        if not config.template:
            return spec
        from kata.factory.start import restorable
        from kata.sandbox.rehearsal import rehearse

        return restorable(
            spec,
            config.boot_timeout,
            self._undo,
            rehearse,
            self._log.info,
            # virtio-fs's daemon has to see what the guest writes. Pages that go back to the host are cut out of the
            # file: QEMU 7.2 gives none back where it may not (softmmu/physmem.c: ram_block_discard_range).
            exclusive=(config.share and config.sharing.way == "virtio-fs") or config.balloon,
            root=config.template_path,
        )

    def bring_up(self, spec: MachineSpec, restorable: MachineSpec) -> Up:
        """From the template, and where that fails by a boot. Raises HypervisorError, GuestError, and as `share`."""
        if restorable.saved is not None:
            try:
                return self._run(restorable, min(RESTORE_TIMEOUT, self._config.boot_timeout))
            except (HypervisorError, GuestError) as error:
                if self._calls.failure():
                    raise
                from kata.factory.start import discard

                self._log.warn("the template cannot be used, so the guest boots", error=error, detail=error.detail)
                discard(restorable, self._config.template_path)
        return self._run(spec, self._config.boot_timeout)

    def _run(self, spec: MachineSpec, timeout: float) -> Up:
        """Start a machine and wait for its agent; after a failure nothing of it is left."""
        from kata.sandbox.agent_client import AgentClient

        with ExitStack() as undo:
            with self._calls.timed("share"):
                exports = self._calls.share(undo)
            machine = registry.create("qemu", replace(spec, shares=exports.virtiofs, ninep=exports.ninep))
            disks = Disks(self._config.id, machine, self._config.disk_drivers)
            undo.callback(disks.close)
            undo.callback(machine.close)
            with self._calls.timed("vmm"):
                machine.boot()
            self._calls.started(machine)
            with self._calls.timed("guest"):
                try:
                    ended, observe = ending(machine), self._calls.observe
                    agent = AgentClient.connect(machine.agent_address(), timeout, ended, observe, self._config.patience)
                except GuestError as error:
                    raise self._explain(machine, error) from error
            undo.callback(agent.close)
            self._undo.push(undo.pop_all())
        return Up(machine, agent, disks)

    def _explain(self, machine: Machine, error: GuestError) -> GuestError:
        if failure := self._calls.failure():
            return GuestError(failure, hint="start it again; the volumes' files are unharmed")
        config, console = self._config, machine.console_tail()
        stopped = machine.wait(0) is not None
        return GuestError(
            "the guest stopped before its agent answered" if stopped else error.what,
            hint=f"give it more memory (it has {config.memory_mib} MiB), fewer CPUs (it has {config.vcpus})"
            f" or more time (--boot-timeout {config.boot_timeout:.0f}), or look at the console below",
            detail=f"guest console:\n{console}" if console else "the guest's console is empty",
        )


def machine_spec(
    config: SandboxConfig, directory: str, nics: tuple[TapNic, ...] = (), identity: Identity | None = None
) -> MachineSpec:
    """The machine that a sandbox of this configuration boots, without the files that it shares. Pure."""
    return MachineSpec(
        sandbox_id=config.id,
        directory=directory,
        kernel=config.assets.kernel,
        initrd=config.assets.initrd,
        image=config.assets.image,
        image_type=config.assets.image_type,
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
        ninep=sharing.places(config),
        max_vcpus=config.sizing.max_vcpus,
        max_memory_mib=config.sizing.max_memory_mib,
        memory_slots=config.sizing.memory_slots,
        balloon=config.balloon,
        preallocate=config.preallocate,
        hugepages=config.hugepages,
        disk_options=config.disk_options,
        hardware=config.hardware,
        uid=None if identity is None else identity.uid,
        gid=None if identity is None else identity.gid,
    )


def ensure_template(config: SandboxConfig) -> str:
    """Make the template of such sandboxes, if it is not there; its name. Raises FactoryError, HypervisorError."""
    from kata.factory.start import ensure
    from kata.sandbox.rehearsal import rehearse

    return ensure(machine_spec(config, "/"), config.boot_timeout, rehearse, config.template_path)

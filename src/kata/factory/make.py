"""Making a template: boot a machine of nobody's, wait for its agent, hold it and save it.

Called by `start`, with the template's lock held. No tenant's code, name or address was ever in the machine.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from msgspec.structs import replace

from kata.errors import KataError
from kata.factory import leftovers, memory
from kata.factory.errors import FactoryError, GuestNotReadyError
from kata.factory.store import STATE, Description, TemplateStore
from kata.hypervisor import registry
from kata.hypervisor.ending import ending
from kata.hypervisor.identity import claim_identity
from kata.hypervisor.machine import TapNic
from kata.linux.netns import NetworkNamespace
from kata.linux.tuntap import open_tap
from kata.network.fresh import make_namespace

if TYPE_CHECKING:
    from pathlib import Path

    from kata.factory.identity import Files
    from kata.hypervisor.machine import Machine, MachineSpec

WarmUp = Callable[["MachineSpec", str, float, threading.Event], None]
"""Called with the machine, its agent's address, seconds to wait, and an event that says that the machine ended."""
SETTLE = 0.3
"""Seconds that a guest has to see its host leave and listen anew. Nothing tells when it has; and a restored guest that
had not would see it then."""


def make(store: TemplateStore, template: MachineSpec, name: str, files: Files, timeout: float, warm_up: WarmUp) -> int:
    """Make the template `name`; its memory in a sealed memfd, or -1 when another made it meanwhile.

    `warm_up` waits for its agent and has it do what makes it fast. `timeout` is in seconds, for the boot and for
    another's making. Raises FactoryError, HypervisorError.
    """
    leftovers.sweep()
    store.require_room(template.memory_mib << 20)
    with store.making(name, timeout) as half:
        if store.has(name):
            return -1
        begin = time.monotonic()
        fd = memory.create(name, template.memory_mib << 20)
        try:
            _boot_and_save(replace(template, memory_fd=fd), name, half, timeout, warm_up)
            memory.drop_zeros(fd)
            memory.seal(fd)
            description = Description(
                name=name,
                created=time.time(),
                files=files,
                accelerator=template.accelerator,
                vcpus=template.vcpus,
                memory_mib=template.memory_mib,
                nics=len(template.nics) + (template.network is not None),
                memory_used=os.fstat(fd).st_blocks * 512,
                seconds=round(time.monotonic() - begin, 2),
            )
            store.publish(half, description, fd)
        except OSError as error:
            os.close(fd)
            raise FactoryError(f"the template cannot be written: {error}") from error
        except BaseException:
            os.close(fd)
            raise
    store.prune(spare=name)
    return fd


def _boot_and_save(template: MachineSpec, name: str, half: Path, timeout: float, warm_up: WarmUp) -> None:
    """When this returns, the machine is gone and nobody writes to its memory any more."""
    with ExitStack() as undo:
        folder = leftovers.make_directory(name, half.parent)
        undo.callback(leftovers.remove_directory, folder)
        directory = os.fspath(folder)
        identity = claim_identity(directory)
        undo.callback(identity.release)
        spec = replace(template, directory=directory, nics=_taps(template, undo), uid=identity.uid, gid=identity.gid)
        machine = registry.create("qemu", spec)
        undo.callback(machine.close)
        machine.boot()
        _warm_up(machine, timeout, warm_up)
        state = os.open(half / STATE, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        undo.callback(os.close, state)
        machine.save(state)


def _taps(template: MachineSpec, undo: ExitStack) -> tuple[TapNic, ...]:
    """Taps in a namespace of nobody's: a guest that is saved with one knows what taps can do, e.g. checksums."""
    if not template.nics:
        return ()
    fd = make_namespace()
    undo.callback(os.close, fd)
    namespace = undo.enter_context(NetworkNamespace(f"/proc/self/fd/{fd}"))
    taps = []
    for number, nic in enumerate(template.nics):
        queues = open_tap(namespace, f"template{number}")
        undo.callback(queues.close)
        taps.append(replace(nic, fds=queues.fds))
    return tuple(taps)


def _warm_up(machine: Machine, timeout: float, warm_up: WarmUp) -> None:
    """Until the agent has answered and done what it was asked to, and listens again."""
    ended = ending(machine)
    try:
        warm_up(machine.spec, machine.agent_address(), timeout, ended)
    except KataError as error:
        console = machine.console_tail()
        raise GuestNotReadyError(
            f"the template's guest: {error.what}",
            hint="give it more memory or time, or look at the console below",
            detail=f"guest console:\n{console}" if console else "the guest's console is empty",
        ) from error
    ended.wait(SETTLE)

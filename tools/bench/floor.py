"""The floor: a template restored by a bare script, without any runtime, whose agent runs one container.

What no runtime can be faster than, with the same guest: the template is the one of `kata run`, the container `true` of
the same busybox, from the same disk. Finding the disk's file is not counted, and there is no interpreter to start.
Used by `starts` and `crowd`.
"""

from __future__ import annotations

import functools
import os
import tempfile
import threading
from contextlib import ExitStack, closing
from typing import NoReturn

from msgspec.structs import replace
from tools.bench.world import BenchError

from kata import paths
from kata.factory.start import restorable
from kata.hypervisor import registry
from kata.hypervisor.machine import Disk
from kata.images.store import ImageStore
from kata.osbuilder.assets import present
from kata.sandbox.agent_client import AgentClient
from kata.sandbox.bringup import machine_spec
from kata.sandbox.config import ContainerConfig, DiskRootfs, GuestAssets, SandboxConfig
from kata.sandbox.containerplan import ContainerPlan
from kata.sandbox.guest import renew, rootfs
from kata.sandbox.rehearsal import rehearse
from kata.sandbox.spec import ContainerOptions, ProcessOptions, container
from kata.sandbox.translate import Translation, for_guest

BOOT_TIMEOUT, ANSWER_TIMEOUT, END_TIMEOUT = 90.0, 30.0, 30.0
NAME = "bench-floor"


def run_floor() -> None:
    """Restore, connect, make the guest one of its own, run a container in it, end QEMU. Raises BenchError."""
    assets = present(paths.assets_dir())
    disk = Disk(path=busybox(), serial=NAME)
    guest = GuestAssets(assets.kernel, assets.initrd, assets.image)
    config = SandboxConfig(id=NAME, hostname="", assets=guest, disks=(disk,), template=True)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, ExitStack() as undo:
        spec = restorable(machine_spec(config, folder), BOOT_TIMEOUT, undo, rehearse, _refuse)
        machine = registry.create("qemu", replace(spec, directory=folder))
        undo.callback(machine.close)
        machine.boot()
        with closing(AgentClient.connect(machine.agent_address(), ANSWER_TIMEOUT, threading.Event())) as agent:
            renew(agent)
            agent.create_container(NAME, plan().with_addresses(machine.disk_address))
            agent.start_container(NAME)
            if code := agent.ask_end(NAME, NAME)():
                raise BenchError(f"the floor: true ended with exit code {code}")
            agent.remove_container(NAME, END_TIMEOUT)


@functools.cache
def busybox() -> str:
    """The file with the image's root file system, made if it is not there."""
    images = ImageStore()
    with images.rootfs(images.resolve("busybox")) as found:
        return os.fspath(found.path)


def plan() -> ContainerPlan:
    """A container of `true`: what the agent is told, but for where the disk is."""
    options = ContainerOptions(id=NAME, process=ProcessOptions(args=("true",), env=("PATH=/bin",)), hostname=NAME)
    place, storages = rootfs(ContainerConfig(id=NAME, spec={}, rootfs=DiskRootfs(NAME)))
    return ContainerPlan(for_guest(container(options), Translation(rootfs=place)), storages)


def _refuse(why: str) -> NoReturn:
    raise BenchError(f"the floor: {why}")

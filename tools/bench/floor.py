"""The floor: a template restored by a bare script, without any runtime, whose agent runs one container.

What no runtime can be faster than, with the same guest. The container's files are the guest's own image. Used by
`starts` and `crowd`.
"""

from __future__ import annotations

import tempfile
import threading
from contextlib import ExitStack, closing
from typing import NoReturn

from msgspec.structs import replace
from tools.bench.world import BenchError

from kata import paths
from kata.factory.start import restorable
from kata.hypervisor import registry
from kata.osbuilder.assets import present
from kata.sandbox.agent_client import AgentClient
from kata.sandbox.bringup import machine_spec
from kata.sandbox.config import GuestAssets, SandboxConfig
from kata.sandbox.guest import renew
from kata.sandbox.rehearsal import rehearse, run_container

BOOT_TIMEOUT, ANSWER_TIMEOUT = 90.0, 30.0


def run_floor() -> None:
    """Restore, connect, make the guest one of its own, run a container in it, end QEMU. Raises BenchError."""
    assets = present(paths.assets_dir())
    config = SandboxConfig(
        id="bench-floor", hostname="", assets=GuestAssets(assets.kernel, assets.initrd, assets.image), template=True
    )
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, ExitStack() as undo:
        spec = restorable(machine_spec(config, folder), BOOT_TIMEOUT, undo, rehearse, _refuse)
        machine = registry.create("qemu", replace(spec, directory=folder))
        undo.callback(machine.close)
        machine.boot()
        with closing(AgentClient.connect(machine.agent_address(), ANSWER_TIMEOUT, threading.Event())) as agent:
            renew(agent)
            run_container(agent)


def _refuse(why: str) -> NoReturn:
    raise BenchError(f"the floor: {why}")

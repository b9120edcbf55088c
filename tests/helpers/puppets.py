"""Real sandboxes and pods over machines that are none: a lying agent's address stands for a guest's.

Everything of the host is the real code but the VMM. What is asked of the machine is answered as by one that does
nothing.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
from google.protobuf.message import Message

from kata import config as configuration
from kata.hypervisor import registry
from kata.hypervisor.machine import DiskAddress, MachineSpec
from kata.log import Logger
from kata.protocol.generated.host import events_pb2, task_pb2
from kata.sandbox import spec as specs
from kata.sandbox.config import (
    ContainerConfig,
    DiskRootfs,
    GuestAssets,
    Patience,
    SandboxConfig,
)
from kata.sandbox.sandbox import Sandbox
from kata.sandbox.store import Store
from kata.shim import pod as pods
from kata.shim.configure import Configured

if TYPE_CHECKING:
    from kata.shim.pod import Pod
    from tests.helpers.lying import LyingAgent

CRI = "io.kubernetes.cri."
PATIENCE = Patience(attempt=2.0, create=2.0, request=2.0)
"""How long calls may take here; a test's bounds follow from it."""


class Machine:
    """A machine of our own for each sandbox id in `agents`; `made` has those that were booted."""

    agents: dict[str, LyingAgent] = {}
    made: list[Machine] = []

    def __init__(self, spec: MachineSpec) -> None:
        self.spec = spec
        self.pid = 0
        self.accelerator = "tcg"
        self.ended = threading.Event()

    def boot(self) -> None:
        self.made.append(self)

    def agent_address(self) -> str:
        return self.agents[self.spec.sandbox_id].address

    def disk_address(self, serial: str) -> DiskAddress:
        return DiskAddress("blk", "01.0")

    def console_tail(self, lines: int = 40) -> str:
        return "the console"

    def vcpu_threads(self) -> tuple[int, ...]:
        return ()

    def free_memory_slots(self) -> int:
        return 0

    def wait(self, timeout: float | None = None) -> int | None:
        return 0 if self.ended.wait(timeout) else None

    def stop(self, timeout: float = 5.0) -> None:
        """A machine that ends takes its agent along."""
        self.ended.set()
        for peer in list(self.agents[self.spec.sandbox_id]._peers):
            peer.hang_up()

    def close(self) -> None:
        self.stop()


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, LyingAgent], None]]:
    """Have the agent stand for the guest of a sandbox id, from now on. Every machine has ended at the end."""
    monkeypatch.setitem(registry.DRIVERS, "qemu", f"{__name__}:{Machine.__name__}")
    Machine.made.clear()
    yield Machine.agents.__setitem__
    assert all(machine.ended.is_set() for machine in Machine.made), "a machine was left"
    Machine.agents.clear()


def sandbox_config(sandbox_id: str) -> SandboxConfig:
    """A sandbox that has nothing on the host but its machine."""
    assets = GuestAssets("/k", None, "/i")
    return SandboxConfig(
        id=sandbox_id, hostname="h", assets=assets, network="none", boot_timeout=5.0, patience=PATIENCE, template=False
    )


def container_config(container_id: str) -> ContainerConfig:
    """A container that would run `true`."""
    process = specs.ProcessOptions(args=("true",))
    spec = specs.container(specs.ContainerOptions(id=container_id, process=process, hostname="h"))
    return ContainerConfig(id=container_id, spec=cast("dict[str, object]", spec), rootfs=DiskRootfs("rootfs"))


def quiet() -> Logger:
    """A logger to nowhere."""
    return Logger(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC))


@contextmanager
def running(sandbox_id: str) -> Iterator[Sandbox]:
    """A sandbox that has been started; `machines` knows its agent."""
    log = quiet()
    sandbox = Sandbox(sandbox_config(sandbox_id), log)
    try:
        sandbox.start()
        yield sandbox
    finally:
        sandbox.stop(graceful=False)
        os.close(log.fd)


class Publisher:
    """Keeps what would be told to containerd."""

    def __init__(self) -> None:
        self.events: list[Message] = []
        self._changed = threading.Condition()

    def publish(self, event: Message) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def of(self, kind: type[Message]) -> list[Message]:
        """The events of a kind so far."""
        with self._changed:
            return [event for event in self.events if isinstance(event, kind)]

    def exits(self, count: int, timeout: float) -> dict[str, int]:
        """Exit codes by process, once there are so many."""

        def found() -> list[events_pb2.TaskExit]:
            return [event for event in self.events if isinstance(event, events_pb2.TaskExit)]

        with self._changed:
            assert self._changed.wait_for(lambda: len(found()) >= count, timeout), "no exit is told"
            return {event.id: event.exit_status for event in found()}


@contextmanager
def pod(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Pod, Publisher]]:
    """The pod of a shim whose first task will be `name`; taken down at the end."""
    monkeypatch.setattr(pods, "guest_rootfs", lambda *_: nullcontext(DiskRootfs("rootfs")))
    monkeypatch.setattr(pods, "unmount_rootfs", lambda bundle: None)
    loaded = configuration.load()
    monkeypatch.setattr(pods, "configure", lambda kind, *_: Configured(loaded, sandbox_config(kind.sandbox_id)))
    publisher, log = Publisher(), quiet()
    made = pods.Pod("default", publisher, log, Store(folder / f"sbs-{name}"))  # type: ignore[arg-type]
    try:
        yield made, publisher
    finally:
        made.close()
        os.close(log.fd)


def create_task(made: Pod, folder: Path, name: str, sandbox_id: str) -> None:
    """Create a task of a pod; the one that has the sandbox's id makes the sandbox."""
    bundle = folder / f"bundle-{name}"
    bundle.mkdir()
    kind = "sandbox" if name == sandbox_id else "container"
    annotations = {f"{CRI}container-type": kind, f"{CRI}sandbox-id": sandbox_id}
    process = {"args": ["true"], "cwd": "/", "user": {"uid": 0, "gid": 0}}
    (bundle / "config.json").write_text(json.dumps({"process": process, "annotations": annotations}))
    made.create(task_pb2.CreateTaskRequest(id=name, bundle=str(bundle)))

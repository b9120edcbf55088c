"""How long a pod's sandbox lives. One that is lost ends every task, and nothing of it stays."""

from __future__ import annotations

import json
import os
import threading
from contextlib import nullcontext
from pathlib import Path
from typing import NoReturn

import pytest
from google.protobuf.message import Message

from kata.log import Logger
from kata.protocol.generated.host import events_pb2, task_pb2
from kata.sandbox.config import SharedRootfs
from kata.sandbox.container import Container
from kata.sandbox.errors import ConflictError, GuestError
from kata.sandbox.process import ProcessState
from kata.sandbox.store import Store
from kata.shim import pod as module
from kata.shim.configure import Configured
from kata.shim.pod import Pod
from tests.helpers.waiting import Later, now
from tests.unit.sandbox.records import record

CRI = "io.kubernetes.cri."


class Agent:
    """Of a guest in which processes run until it is gone; everything fails then."""

    def __init__(self) -> None:
        self.gone = threading.Event()

    def ask_end(self, container_id: str, exec_id: str) -> Later[int]:
        return Later(self._break)

    def oom_event(self) -> str:
        return self._break()

    def start_container(self, container_id: str) -> None:
        assert not self.gone.is_set()

    def signal_process(self, container_id: str, exec_id: str, signal: int, timeout: float | None) -> None:
        if self.gone.is_set():
            raise GuestError("the connection broke")
        self.gone.set()

    def check(self, timeout: float) -> None:
        pass

    def ask_output(self, container_id: str, exec_id: str, *, stderr: bool, size: int) -> Later[bytes]:
        return now(b"")

    def close_stdin(self, container_id: str, exec_id: str) -> None:
        raise GuestError("no matter")

    def metrics(self) -> str:
        return ""

    def _break(self) -> NoReturn:
        self.gone.wait(60)
        raise GuestError("the connection broke")


class Sandbox:
    """Its VMM ends when `ended` is set."""

    made: list[Sandbox] = []

    def __init__(self, config: object, log: Logger, observe: object) -> None:
        self.config = record("lost").sandbox
        self.agent = Agent()
        self.ended = threading.Event()
        self.stops: list[bool] = []
        self.accelerator, self.agent_url, self.console_url = "tcg", "unix:///x", "unix:///y"
        self.pids: list[int] = []
        self.processes: dict[str, int] = {}
        self.containers: list[Container] = []
        self.made.append(self)

    def start(self) -> None:
        self.starter = threading.current_thread()

    def create_container(self, config: object) -> Container:
        self.containers.append(Container(self.agent, config.id, terminal=False))  # type: ignore[arg-type, attr-defined]
        return self.containers[-1]

    def remove_container(self, container_id: str) -> None:
        pass

    def wait_end(self, timeout: float | None) -> bool:
        return self.ended.wait(timeout)

    def stop(self, *, graceful: bool = True) -> None:
        self.stops.append(graceful)
        self.ended.set()
        self.agent.gone.set()


class Publisher:
    """Keeps events."""

    def __init__(self) -> None:
        self.events: list[Message] = []
        self.changed = threading.Condition()

    def publish(self, event: Message) -> None:
        with self.changed:
            self.events.append(event)
            self.changed.notify_all()

    def exits(self, count: int) -> dict[str, int]:
        """Exit codes by container, once there are so many."""

        def found() -> list[events_pb2.TaskExit]:
            return [event for event in self.events if isinstance(event, events_pb2.TaskExit)]

        with self.changed:
            assert self.changed.wait_for(lambda: len(found()) >= count, 30)
            return {event.container_id: event.exit_status for event in found()}


@pytest.fixture
def publisher() -> Publisher:
    return Publisher()


@pytest.fixture
def pod(tmp_path: Path, publisher: Publisher, monkeypatch: pytest.MonkeyPatch) -> Pod:
    from kata import config

    monkeypatch.setenv("KATA_STATE_DIR", str(tmp_path))
    monkeypatch.setattr(module, "Sandbox", Sandbox)
    monkeypatch.setattr(module, "guest_rootfs", lambda bundle, *_: nullcontext(SharedRootfs(bundle)))
    monkeypatch.setattr(module, "unmount_rootfs", lambda bundle: None)
    loaded = config.load()
    monkeypatch.setattr(module, "configure", lambda *_: Configured(loaded, record("lost").sandbox))
    Sandbox.made.clear()
    return Pod("default", publisher, Logger(2), Store(tmp_path / "sbs"))  # type: ignore[arg-type]


def create(pod: Pod, folder: Path, name: str, kind: str) -> None:
    bundle = folder / f"bundle-{name}"
    bundle.mkdir()
    annotations = {f"{CRI}container-type": kind, f"{CRI}sandbox-id": "lost"}
    spec = {"process": {"args": ["x"], "cwd": "/"}, "annotations": annotations}
    (bundle / "config.json").write_text(json.dumps(spec))
    pod.create(task_pb2.CreateTaskRequest(id=name, bundle=str(bundle)))


def test_every_task_ends_and_nothing_stays(pod: Pod, publisher: Publisher, tmp_path: Path) -> None:
    create(pod, tmp_path, "lost", "sandbox")
    create(pod, tmp_path, "app", "container")
    create(pod, tmp_path, "unstarted", "container")
    folder = tmp_path / "sbs" / "lost"
    assert (tmp_path / "bundle-lost" / "monitor_address").read_text() == f"unix://{folder / 'shim-monitor.sock'}"
    assert (folder / "shim-monitor.sock").is_socket()
    assert Store(tmp_path / "sbs").read("lost").namespace == "default"
    for name in ("lost", "app"):
        pod.task(name).start()
    Sandbox.made[0].ended.set()
    assert publisher.exits(3) == {"lost": 137, "app": 137, "unstarted": 137}
    assert Sandbox.made[0].stops[0] is False
    assert not folder.exists()
    assert pod.task("unstarted").container.init.state is ProcessState.STOPPED
    for name in ("app", "unstarted", "lost"):
        pod.delete(name)
    assert pod.idle
    deleted = [event.container_id for event in publisher.events if isinstance(event, events_pb2.TaskDelete)]
    assert deleted == ["app", "unstarted", "lost"]


def test_a_sandbox_outlives_the_thread_that_asked_for_it(pod: Pod, tmp_path: Path) -> None:
    caller = threading.Thread(target=create, args=(pod, tmp_path, "lost", "sandbox"))
    caller.start()
    caller.join(60)
    assert Sandbox.made[0].starter is not caller
    assert Sandbox.made[0].starter.is_alive()  # QEMU's parent-death signal follows this thread
    pod.close()


def test_a_sandbox_that_cannot_start_says_why_and_leaves_nothing(
    pod: Pod, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Sandbox) -> None:
        raise GuestError("it does not boot")

    monkeypatch.setattr(Sandbox, "start", fail)
    with pytest.raises(GuestError, match="does not boot"):
        create(pod, tmp_path, "lost", "sandbox")
    assert pod.idle
    assert not (tmp_path / "sbs" / "lost").exists()


def test_a_sandbox_that_is_taken_down_in_order_is_not_lost(pod: Pod, publisher: Publisher, tmp_path: Path) -> None:
    create(pod, tmp_path, "lost", "sandbox")
    pod.close()
    assert Sandbox.made[0].stops == [True]
    assert not (tmp_path / "sbs" / "lost").exists()


def test_what_is_being_created_can_be_seen_and_cleared_away(
    pod: Pod, publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A containerd that was killed during Create comes back and finds the shim at it."""
    booting, booted = threading.Event(), threading.Event()

    def boot(_: Sandbox) -> None:
        booting.set()
        assert booted.wait(30)

    monkeypatch.setattr(Sandbox, "start", boot)
    creating = threading.Thread(target=create, args=(pod, tmp_path, "lost", "sandbox"))
    creating.start()
    assert booting.wait(30)
    state = pod.state("lost", "")
    assert (state.status, state.bundle) == (task_pb2.CREATED, str(tmp_path / "bundle-lost"))

    def clear() -> None:
        pod.task("lost").kill("", 9)
        assert publisher.exits(1) == {"lost": 137}
        pod.delete("lost")

    clearing = threading.Thread(target=clear)
    clearing.start()
    booted.set()
    for thread in (creating, clearing):
        thread.join(60)
    assert pod.idle
    assert not (tmp_path / "sbs" / "lost").exists()


def test_what_is_deleted_for_nobody_can_be_deleted_again(pod: Pod, publisher: Publisher, tmp_path: Path) -> None:
    """A containerd that was killed during Delete comes back, and lists what the shim still has."""
    create(pod, tmp_path, "lost", "sandbox")
    with pytest.raises(ConflictError, match="nobody hears"):
        pod.delete("lost", lambda: False)
    assert pod.state("lost", "").status == task_pb2.STOPPED
    assert not [event for event in publisher.events if isinstance(event, events_pb2.TaskDelete)]
    assert pod.delete("lost").exit_code == 137
    assert pod.idle
    assert len([event for event in publisher.events if isinstance(event, events_pb2.TaskDelete)]) == 1


def test_the_next_sandbox_clears_up_after_one_that_died_with_its_containerd(pod: Pod, tmp_path: Path) -> None:
    store = Store(tmp_path / "sbs")
    os.close(store.create(record("dead", "dead", auto_remove=True)))
    alive = store.create(record("alive", "alive", auto_remove=True))
    create(pod, tmp_path, "lost", "sandbox")
    assert store.ids() == ["alive", "lost"]
    pod.close()
    os.close(alive)

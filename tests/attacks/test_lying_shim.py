"""A lying guest under a shim: real pods, tasks and sandboxes over machines that are none.

Whatever the guest says: tasks can be killed and deleted, threads and memory stay bounded, containerd is not flooded,
and a neighbour notices nothing.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from kata.errors import KataError
from kata.linux.flag import Flag
from kata.protocol.generated.host import events_pb2, task_pb2
from kata.protocol.server import Call
from kata.sandbox import process, stdio
from kata.sandbox import spec as specs
from kata.sandbox.config import Patience
from kata.sandbox.errors import ConflictError
from kata.sandbox.process import LOST_EXIT_CODE, ProcessState
from kata.sandbox.stdio import Streams
from kata.shim import memory
from kata.shim import pod as pods
from kata.shim.events import QUEUED
from kata.shim.events import Publisher as RealPublisher
from kata.shim.serve import Pods
from kata.shim.service import TaskService
from tests.helpers import lying, puppets
from tests.helpers.lying import Asked, LyingAgent, bounds
from tests.helpers.puppets import Machine, create_task, machines, pod, quiet, running

pytestmark = [pytest.mark.root]
__all__ = ["machines"]

Machines = Callable[[str, LyingAgent], None]
EXEC = specs.process(specs.ProcessOptions(args=("true",)))


def ends_at_once(asked: Asked) -> None:
    """WaitProcess: added processes have ended with exit code 3."""
    if asked.request.exec_id == "box":  # type: ignore[attr-defined]
        return
    answer = asked.method.response()
    answer.status = 3  # type: ignore[attr-defined]
    asked.reply(answer)


@pytest.fixture
def agent(tmp_path: Path, machines: Machines) -> LyingAgent:
    """The guest of the sandbox `box`; honest until a test says otherwise."""
    made = LyingAgent(tmp_path / "agent")
    machines("box", made)
    return made


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "DRAIN_TIMEOUT", 0.5)
    monkeypatch.setattr(process, "KILL_PATIENCE", 1.0)
    monkeypatch.setattr(pods, "REMOVE_KILL_TIMEOUT", 0.5)


def started(made: pods.Pod, folder: Path) -> None:
    """A pod with a running container."""
    for name in ("box", "app"):
        create_task(made, folder, name, "box")
        made.start(name)


def test_a_flood_of_memory_events_is_heard_in_part(
    tmp_path: Path, agent: LyingAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    with agent, pod("box", tmp_path, monkeypatch) as (made, publisher):
        with bounds(seconds=30, mib=32):
            agent.lies["GetOOMEvent"] = lying.flood_of_memory_events("box")
            create_task(made, tmp_path, "box", "box")
            time.sleep(2.0)  # what is measured is how much comes in a time
            told = len(publisher.of(events_pb2.TaskOOM))
            made.close()
        assert 0 < told <= memory.BURST + 2.0 * memory.BURST / memory.PERIOD + 3
        assert agent.asked.count("GetOOMEvent") <= told + 2


@pytest.mark.parametrize("name", ["other", "../box", lying.ESCAPES.replace("\0", ""), ""])
def test_containers_that_the_host_never_made_run_out_of_nothing(
    tmp_path: Path, agent: LyingAgent, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with agent, pod("box", tmp_path, monkeypatch) as (made, publisher):
        agent.lies["GetOOMEvent"] = lying.flood_of_memory_events(name)
        started(made, tmp_path)
        assert agent.asked.count("GetOOMEvent") > 0
        assert publisher.of(events_pb2.TaskOOM) == []


def test_events_of_a_guest_do_not_pile_up_while_containerd_is_away(tmp_path: Path) -> None:
    log = quiet()
    publisher = RealPublisher(f"{tmp_path}/nobody", "default", log)
    with bounds(seconds=20, mib=8):
        for _ in range(20_000):
            publisher.publish(events_pb2.TaskOOM(container_id="box"))
        assert publisher._queue.qsize() <= QUEUED
        publisher.publish(events_pb2.TaskExit(container_id="box", id="box"))  # what the host says is not left out
        assert publisher._queue.qsize() <= QUEUED + 1
        publisher._closing.set()
        publisher.close(10)
    os.close(log.fd)


@pytest.mark.parametrize("lie", [lying.honest, lying.never, lying.fails_strangely], ids=lambda lie: lie.__name__)
@pytest.mark.parametrize("name", ["app", "box"])
def test_a_guest_that_never_tells_of_an_end_keeps_no_pod_alive(
    tmp_path: Path, agent: LyingAgent, monkeypatch: pytest.MonkeyPatch, name: str, lie: lying.Lie
) -> None:
    """A pod whose guest does not heed SIGKILL could never be deleted."""
    with agent, pod("box", tmp_path, monkeypatch) as (made, publisher):
        started(made, tmp_path)
        agent.lies["SignalProcess"] = lie
        with bounds(seconds=10, mib=16):
            try:
                made.task(name).kill("", 9)
            except KataError as error:
                assert error.layer in ("guest", "container")
            assert publisher.exits(1, 8.0)[name] == LOST_EXIT_CODE
        if name == "box":
            assert Machine.made[-1].ended.wait(5), "the sandbox goes with its first task"
        else:
            assert made.task("box").container.init.state is ProcessState.RUNNING
        made.delete(name)


@pytest.mark.parametrize("lie", [lying.honest, lying.never, lying.hangs_up], ids=lambda lie: lie.__name__)
def test_a_task_that_never_began_can_be_deleted(
    tmp_path: Path, agent: LyingAgent, monkeypatch: pytest.MonkeyPatch, lie: lying.Lie
) -> None:
    monkeypatch.setattr(process, "KILL_PATIENCE", 60.0)
    with agent, pod("box", tmp_path, monkeypatch) as (made, _):
        create_task(made, tmp_path, "box", "box")
        agent.lies["SignalProcess"] = lie
        with bounds(seconds=10, mib=16):
            made.delete("box")
        assert made.idle
        assert Machine.made[-1].ended.is_set()


def test_output_without_end_ends_after_its_process(
    tmp_path: Path, agent: LyingAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stdio, "LAST_LIMIT", 4 << 20)
    with agent, running("box") as sandbox:
        container = sandbox.create_container(puppets.container_config("box"))
        container.start(lambda _: None)
        agent.lies |= dict.fromkeys(("ReadStdout", "ReadStderr"), lying.flood_of_output(1 << 20))
        agent.lies["WaitProcess"] = ends_at_once
        with bounds(seconds=20, mib=200):  # its threads have to end too; the agent's own memory is in it
            assert container.exec("one", EXEC, Streams()).wait(10) == 3
        sandbox.agent.stats("box")  # the connection is as good as before


@pytest.mark.parametrize("output", [lying.honest, lying.fails_strangely, lying.empty], ids=lambda lie: lie.__name__)
def test_processes_that_ended_leave_no_threads(tmp_path: Path, agent: LyingAgent, output: lying.Lie) -> None:
    """Their outputs are never answered: health probes alone are thousands of processes a day."""
    with agent, running("box") as sandbox:
        container = sandbox.create_container(puppets.container_config("box"))
        container.start(lambda _: None)
        agent.lies |= {"WaitProcess": ends_at_once, "ReadStdout": output, "ReadStderr": output}
        with bounds(seconds=30, mib=32):
            made = [container.exec(f"e{number}", EXEC, Streams()) for number in range(40)]
            assert {one.wait(10) for one in made} == {3}
            for number in range(40):
                container.forget(f"e{number}")
        assert not sandbox.agent._client._pending.keys() - {1, 3, 5, 7, 9, 11, 13, 15}, "calls that nobody waits for"


def test_input_that_is_never_taken_is_let_go(tmp_path: Path, agent: LyingAgent) -> None:
    path = tmp_path / "stdin"
    os.mkfifo(path)
    client = os.open(path, os.O_RDWR)
    with agent, running("box") as sandbox:
        container = sandbox.create_container(puppets.container_config("box"))
        container.start(lambda _: None)
        agent.lies["WriteStdin"] = lying.never
        with bounds(seconds=20, mib=16):
            made = container.exec("one", EXEC, Streams(stdin=str(path)))
            os.write(client, b"data")
            deadline = time.monotonic() + 10
            while "WriteStdin" not in agent.asked:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            made.signal(9)
            assert made.wait(10) == LOST_EXIT_CODE
    os.close(client)


@pytest.mark.parametrize("seed", range(6))
def test_a_life_among_lies(tmp_path: Path, agent: LyingAgent, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Every request of the task service, answered by a seeded choice; then nothing of it is left."""
    agent.random.seed(seed)
    monkeypatch.setattr(puppets, "PATIENCE", Patience(attempt=0.3, create=0.3, request=0.3))
    calls: list[Callable[[TaskService], object]] = [
        lambda service: service.start(task_pb2.StartRequest(id="app"), NOBODY),
        lambda service: service.stats(task_pb2.StatsRequest(id="app"), NOBODY),
        lambda service: service.pause(task_pb2.PauseRequest(id="app"), NOBODY),
        lambda service: service.exec(exec_request("e"), NOBODY),
        lambda service: service.start(task_pb2.StartRequest(id="app", exec_id="e"), NOBODY),
        lambda service: service.resize_pty(task_pb2.ResizePtyRequest(id="app", exec_id="e"), NOBODY),
        lambda service: service.resume(task_pb2.ResumeRequest(id="app"), NOBODY),
        lambda service: service.update(update_request(), NOBODY),
        lambda service: service.kill(task_pb2.KillRequest(id="app", signal=9), NOBODY),
        lambda service: service.state(task_pb2.StateRequest(id="app"), NOBODY),
        lambda service: service.pids(task_pb2.PidsRequest(id="app"), NOBODY),
    ]
    with bounds(seconds=60, mib=160), agent, pod("box", tmp_path, monkeypatch) as (made, _):
        create_task(made, tmp_path, "box", "box")
        create_task(made, tmp_path, "app", "box")
        agent.lies["*"] = lying.anything
        service = TaskService(cast(Pods, OnePod(made)), cast(Flag, threading.Event()))
        for call in calls:
            try:
                call(service)
            except KataError as error:
                assert error.layer in ("guest", "container", "host"), error
        made.close()
        for name in ("app", "box"):
            process_of = made.task(name).container.init
            if process_of.state is ProcessState.CREATED:
                made.task(name).abandon()
            process_of.wait(20)
            made.delete(name)
        assert made.idle
        assert not (tmp_path / "sbs-box" / "box").exists()


def test_a_neighbour_notices_nothing(
    tmp_path: Path, agent: LyingAgent, machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    neighbour = LyingAgent(tmp_path / "neighbour")
    machines("calm", neighbour)
    with agent, neighbour, running("calm") as calm:
        calm.create_container(puppets.container_config("calm")).start(lambda _: None)
        asked = len(neighbour.asked)
        with pod("box", tmp_path, monkeypatch) as (made, _):
            started(made, tmp_path)
            agent.lies["*"] = lying.extremes
            agent.lies["WaitProcess"] = lying.garbage_frames
            for _ in range(20):
                with pytest.raises(KataError):
                    made.task("calm")
                try:
                    made.task("app").container.stats()
                except KataError:
                    pass
        calm.agent.check(1.0)
        assert set(neighbour.asked[asked:]) <= {"Check", "WaitProcess"}
        assert calm.container("calm").init.state is ProcessState.RUNNING


class OnePod:
    """What a service asks for its pod."""

    def __init__(self, made: pods.Pod) -> None:
        self._made = made
        self.pid = os.getpid()

    def get(self) -> pods.Pod:
        return self._made


NOBODY = cast(Call, None)


def exec_request(exec_id: str) -> task_pb2.ExecProcessRequest:
    request = task_pb2.ExecProcessRequest(id="app", exec_id=exec_id, terminal=True)
    request.spec.value = b'{"args": ["true"], "cwd": "/", "user": {"uid": 0, "gid": 0}}'
    return request


def update_request() -> task_pb2.UpdateTaskRequest:
    request = task_pb2.UpdateTaskRequest(id="app")
    request.resources.value = b'{"cpu": {"shares": 5}}'
    return request


def test_a_log_that_is_closed_takes_no_more(tmp_path: Path) -> None:
    """Output after a process's end must not go to whatever has the descriptor's number by then: a monitor of QEMU's."""
    sink = stdio.LogSink(str(tmp_path / "log"))
    sink.close()
    with (tmp_path / "monitor").open("wb", buffering=0) as monitor:
        assert monitor.fileno() == sink._fd, "the number is not used again at once"
        sink.write("stdout", b'{"execute": "quit"}\n' * 100)
        sink.close()
        assert monitor.tell() == 0


def test_a_flood_of_empty_lines_stays_within_the_log(tmp_path: Path) -> None:
    """Each is fifty bytes in the log: 4 MiB of them are 200 MB, and were held at once."""
    sink = stdio.LogSink(str(tmp_path / "log"))
    with bounds(seconds=60, mib=16):
        for _ in range(2):
            sink.write("stdout", b"\n" * (1 << 20))
    sink.close()
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert len(sizes) == 2
    assert max(sizes) <= stdio.LOG_LIMIT


def test_a_conflict_is_the_hosts_word(tmp_path: Path, agent: LyingAgent) -> None:
    """A guest that says ALREADY_EXISTS is not taken for this host's table of containers."""
    agent.lies["CreateContainer"] = lambda asked: asked.fail(6, "exists")
    with agent, running("box") as sandbox:
        for _ in range(2):
            with pytest.raises(KataError) as caught:
                sandbox.create_container(puppets.container_config("box"))
            assert not isinstance(caught.value, ConflictError)
        assert sandbox.containers == []

"""What must not harm the agent: a crun that hangs or dies, a full disk, floods of output, hostile clients."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from kata.protocol.client import Client
from kata.protocol.generated import agent_pb2, health_pb2
from kata.protocol.status import Code, RpcError
from kata.protocol.transport import dial
from tests.kernel.test_agent import Agent

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

# crun with a will of its own: what the file `will` names happens to the subcommands that its first line names.
CRUN = """#!/bin/sh
folder={folder}
will=$(cat $folder/will 2>/dev/null)
for word in "$@"; do case $word in create|exec|start|delete|pause|update) verb=$word; break;; esac; done
case $will in
"hang $verb") exec sleep 1000;;
"stop $verb") echo $$ > $folder/stopped; kill -STOP $$;;
"kill $verb "*) $folder/crun "$@" & pid=$!; sleep ${{will##* }}; kill -KILL $pid; wait $pid; exit 137;;
esac
exec $folder/crun "$@"
"""
IMPATIENT = "import kata.agent.crun as crun; crun.TIMEOUT = 3.0; from kata.agent.__main__ import main; main()"


class Robust(Agent):
    """An agent whose crun can be told to misbehave, and gives up on it after three seconds."""

    PROGRAM = ("-c", IMPATIENT)

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        super().__init__(folder)
        (folder / "crun").write_bytes(Path("/usr/bin/crun").read_bytes())
        (folder / "wrapper").write_text(CRUN.format(folder=folder))
        for name in ("crun", "wrapper"):
            (folder / name).chmod(0o755)
        self.inside("mount", "--bind", str(folder / "wrapper"), "/usr/bin/crun")

    def inside(self, *command: str) -> None:
        """Run a command in the agent's mount namespace."""
        subprocess.run(["nsenter", f"--target={self.pid}", "--mount", *command], check=True)

    def will(self, text: str) -> None:
        (self.folder / "will").write_text(text)

    def check(self, timeout: float = 20.0) -> None:
        self.client.call("grpc.Health/Check", health_pb2.CheckRequest(), timeout=timeout)

    def threads(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/task"))


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Robust]:
    made = Robust(tmp_path)
    try:
        made.call("CreateSandbox", agent_pb2.CreateSandboxRequest(sandbox_id="sb", hostname="pod"))
        yield made
    finally:
        made.will("")
        made.close()


def settled(agent: Agent, before: dict[str, object]) -> None:
    """What a container leaves is as it was, soon."""
    deadline = time.monotonic() + 15.0
    while (now := agent.leftovers()) != before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert now == before


@pytest.fixture
def clean(agent: Robust) -> dict[str, object]:
    """What is left when a container went well; crun and the agent make some folders with the first one."""
    agent.run("first", "true")
    assert agent.wait("first") == 0
    agent.remove("first")
    return agent.leftovers()


def background(work: object, *args: object) -> tuple[threading.Thread, list[object]]:
    """Call `work` in a thread; what it returned or raised is in the list."""
    outcome: list[object] = []

    def run() -> None:
        try:
            outcome.append(work(*args))  # type: ignore[operator]
        except Exception as error:  # noqa: BLE001 - for the test to look at
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, outcome


def test_no_call_keeps_another_waiting(agent: Robust) -> None:
    agent.run("quiet", "sleep", "1000")
    waits = [
        background(agent.wait, "quiet", "", 60.0),
        background(agent.read, "quiet"),
        background(agent.call, "GetOOMEvent", agent_pb2.GetOOMEventRequest(), 60.0),
    ]
    agent.will("stop pause")
    waits.append(background(agent.call, "PauseContainer", agent_pb2.PauseContainerRequest(container_id="quiet"), 60.0))
    deadline = time.monotonic() + 10.0
    while not (agent.folder / "stopped").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    agent.check()
    agent.run("other", "echo", "meanwhile")
    agent.exec("quiet", "e1", "echo", "also")
    assert (agent.read("other"), agent.read("quiet", "e1")) == (b"meanwhile\n", b"also\n")
    agent.call("StatsContainer", agent_pb2.StatsContainerRequest(container_id="quiet"))
    agent.remove("other")
    assert [outcome for thread, outcome in waits if not thread.is_alive()] == []
    os.kill(int((agent.folder / "stopped").read_text()), signal.SIGCONT)
    agent.will("")
    waits[3][0].join(20)
    agent.call("ResumeContainer", agent_pb2.ResumeContainerRequest(container_id="quiet"))
    agent.signal("quiet", signal.SIGKILL)
    waits[0][0].join(20)
    assert waits[0][1] == [137]
    agent.remove("quiet")


@pytest.mark.parametrize("delay", ["0.00", "0.01", "0.02", "0.03", "0.05", "0.08"])
def test_crun_killed_while_it_creates(agent: Robust, clean: dict[str, object], delay: str) -> None:
    agent.will(f"kill create {delay}")
    with pytest.raises(RpcError, match="crun create") as caught:
        agent.create("box", "sleep", "1000")
    assert caught.value.code == Code.INTERNAL
    settled(agent, clean)
    agent.will("")
    agent.run("box", "echo", "again")
    assert agent.read("box") == b"again\n"
    agent.remove("box")
    settled(agent, clean)


def test_a_failed_creation_leaves_a_neighbour_in_the_same_cgroup_alone(agent: Robust) -> None:
    agent.run("neighbour", "sleep", "1000")
    request = agent.request("box", "sleep", "1000")
    request.OCI.Linux.CgroupsPath = f"/{agent.cgroup}/neighbour"
    agent.will("hang create")  # a crun that got further kills what is in the cgroup itself, at its delete
    with pytest.raises(RpcError, match="crun did not end"):
        agent.call("CreateContainer", request)
    agent.will("")
    agent.exec("neighbour", "e1", "echo", "unharmed")
    assert agent.read("neighbour", "e1") == b"unharmed\n"
    agent.remove("neighbour")


def test_crun_that_never_returns(agent: Robust, clean: dict[str, object]) -> None:
    agent.will("hang create")
    with pytest.raises(RpcError, match="crun did not end within 3 s") as caught:
        agent.create("box", "true")
    assert caught.value.code == Code.INTERNAL
    settled(agent, clean)
    agent.will("")
    agent.run("box", "sleep", "1000")
    agent.will("hang exec")
    with pytest.raises(RpcError, match="crun did not end within 3 s"):
        agent.exec("box", "e1", "true")
    agent.will("hang delete")
    with pytest.raises(RpcError, match="crun did not end within 3 s"):
        agent.remove("box")
    agent.will("")
    agent.remove("box")
    settled(agent, clean)


def test_a_full_disk(agent: Robust, clean: dict[str, object]) -> None:
    agent.inside("mount", "-o", "remount,size=4k", "/run")
    with pytest.raises(RpcError, match="No space left on device"):
        agent.create("box", "true")
    path = "/run/kata-containers/shared/containers/copied"
    piece = agent_pb2.CopyFileRequest(
        path=path, file_size=1 << 20, file_mode=0o100644, dir_mode=0o40755, data=bytes(1 << 20)
    )
    with pytest.raises(RpcError, match="No space left on device"):
        agent.call("CopyFile", piece)
    agent.check()
    agent.inside("mount", "-o", "remount,size=64m", "/run")
    now = agent.leftovers()
    assert {key: now[key] for key in now if key != "files"} == {key: clean[key] for key in clean if key != "files"}
    assert not [name for name in now["files"] if "/box" in name or "copied" in name]  # type: ignore[attr-defined]
    agent.call("CopyFile", piece)
    agent.run("box", "true")
    assert agent.wait("box") == 0


def test_output_that_nobody_reads(agent: Robust) -> None:
    agent.run("flood", "sh", "-c", "while :; do echo flood; echo flood >&2; done")
    memory = resident(agent.pid)
    time.sleep(2.0)
    agent.check()
    assert resident(agent.pid) < memory + (4 << 20)
    agent.signal("flood", signal.SIGKILL)
    assert agent.wait("flood") == 137
    agent.remove("flood")


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def connect(agent: Agent) -> socket.socket:
    raw = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    raw.settimeout(30.0)
    raw.connect(agent.address.removeprefix("unix://"))
    return raw


@pytest.mark.parametrize(
    "data",
    [
        struct.pack(">IIBB", 100, 1, 1, 0) + b"half a frame",
        struct.pack(">IIB", 100, 1, 1),
        struct.pack(">IIBB", 0xFFFFFFFF, 1, 1, 0) + bytes(1000),
        os.urandom(1 << 16),
        struct.pack(">IIBB", 20, 1, 1, 0) + b"\xff" * 20,
        b"".join(struct.pack(">IIBB", 0, number, 77, 255) for number in range(5000)),
        b"GET / HTTP/1.1\r\nHost: guest\r\n\r\n",
    ],
    ids=["half", "header", "huge", "random", "no request", "unknown kinds", "http"],
)
def test_what_no_client_sends(agent: Robust, data: bytes) -> None:
    for _ in range(20):
        with connect(agent) as raw:
            try:
                raw.sendall(data)
            except OSError:
                continue  # hung up on already
    agent.check()


def test_clients_that_go_away_leave_nothing(agent: Robust) -> None:
    agent.run("quiet", "sleep", "1000")
    agent.check()
    before = len(os.listdir(f"/proc/{agent.pid}/fd"))
    for _ in range(30):
        with Client(dial(agent.address, 5.0)) as other:
            calls = [
                background(other.call, "grpc.AgentService/GetOOMEvent", agent_pb2.GetOOMEventRequest()),
                background(
                    other.call,
                    "grpc.AgentService/WaitProcess",
                    agent_pb2.WaitProcessRequest(container_id="quiet"),
                ),
            ]
            other.call("grpc.Health/Check", health_pb2.CheckRequest(), timeout=20.0)
        for thread, outcome in calls:
            thread.join(20)
            assert isinstance(outcome[0], RpcError)
    deadline = time.monotonic() + 15.0
    while len(os.listdir(f"/proc/{agent.pid}/fd")) > before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(os.listdir(f"/proc/{agent.pid}/fd")) <= before


def test_more_calls_than_one_connection_may_have(agent: Robust) -> None:
    agent.run("quiet", "sleep", "1000")
    with Client(dial(agent.address, 5.0)) as other:
        request = agent_pb2.WaitProcessRequest(container_id="quiet")
        calls = [background(other.call, "grpc.AgentService/WaitProcess", request) for _ in range(1100)]
        deadline = time.monotonic() + 60.0
        while sum(bool(outcome) for _, outcome in calls) < 1100 - 1024:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        agent.check()  # another connection has its own allowance
        refused = [outcome[0] for _, outcome in calls if outcome]
        assert {error.code for error in refused if isinstance(error, RpcError)} == {Code.RESOURCE_EXHAUSTED}
        agent.signal("quiet", signal.SIGKILL)
        for thread, _ in calls:
            thread.join(60)
        assert sum(getattr(outcome[0], "status", None) == 137 for _, outcome in calls) == 1100 - len(refused)


def test_thousands_of_calls_at_once(agent: Robust) -> None:
    def many(client: Client) -> int:
        for _ in range(50):
            client.call("grpc.Health/Check", health_pb2.CheckRequest(), timeout=60.0)
        return 50

    with ExitStack() as stack:
        clients = [stack.enter_context(Client(dial(agent.address, 5.0))) for _ in range(8)]
        calls = [background(many, client) for client in clients for _ in range(10)]
        for thread, _ in calls:
            thread.join(100)
        assert [outcome for _, outcome in calls] == [[50]] * 80


def test_a_terminal_that_nobody_reads_does_not_hold_up_the_end(agent: Robust) -> None:
    agent.run("noisy", "sh", "-c", "while :; do echo noise; done", terminal=True)
    agent.check()
    agent.signal("noisy", signal.SIGKILL)
    assert agent.wait("noisy") == 137
    agent.remove("noisy")

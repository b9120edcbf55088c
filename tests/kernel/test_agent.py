"""The whole agent with real crun containers, outside a VM: in namespaces of its own, on a unix socket."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.message import Message

from kata.linux.inotify import Inotify
from kata.oci.annotations import PID_TARGET
from kata.oci.convert import process_to_proto, resources_to_proto, spec_to_proto
from kata.oci.spec import Process, Spec
from kata.protocol.client import Client
from kata.protocol.generated import agent_pb2, health_pb2
from kata.protocol.status import Code, RpcError
from kata.protocol.transport import dial

pytestmark = pytest.mark.root

SRC = Path(__file__).parents[2] / "src"
# A private /run, a pure cgroup v2 (crun refuses the hybrid kind), a /proc of the new pid namespace.
INNER = """
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mount -t sysfs sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t proc proc /proc
exec "$@"
"""
APPLETS = ("cat", "dd", "echo", "head", "id", "kill", "seq", "sh", "sleep", "stty", "true", "tty")


class Agent:
    """A running agent, its client, and a look at what it leaves behind."""

    PROGRAM: tuple[str, ...] = ("-m", "kata.agent")

    def __init__(self, folder: Path) -> None:
        self.rootfs = make_rootfs(folder / "rootfs")
        self.cgroup = f"kata-test-{os.urandom(4).hex()}"
        self.address = address = f"unix://{folder}/agent.sock"
        unshare = ["unshare", "--mount", "--pid", "--ipc", "--uts", "--cgroup", "--net", "--fork", "--kill-child"]
        agent = [sys.executable, *self.PROGRAM, "--server-addr", address, "--no-device-rules"]
        self.log = folder / "agent.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*unshare, "sh", "-c", INNER, "sh", *agent],
                env={**os.environ, "PYTHONPATH": str(SRC)},
                stdout=log,
                stderr=log,
            )
        try:
            self._wait_until_serving()
        except BaseException:
            self.process.kill()
            self.process.wait(20)
            raise
        self.client = Client(dial(address, 5.0))
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        self.pid = int(children[0])

    def _wait_until_serving(self) -> None:
        deadline = time.monotonic() + 20.0
        with Inotify() as changes:
            changes.watch(str(self.log))
            while "serving" not in self.log.read_text():
                left = deadline - time.monotonic()
                assert left > 0, self.log.read_text()
                assert self.process.poll() is None, self.log.read_text()
                select.select([changes], [], [], left)
                changes.drain()

    def call(self, method: str, request: Message, timeout: float | None = 30.0) -> object:
        return self.client.call(f"grpc.AgentService/{method}", request, timeout=timeout)

    def create(self, container_id: str, *args: str, **process: object) -> None:
        self.call("CreateContainer", self.request(container_id, *args, **process))

    def request(self, container_id: str, *args: str, **process: object) -> agent_pb2.CreateContainerRequest:
        return create_request(container_id, f"/{self.cgroup}/{container_id}", self.rootfs, *args, **process)

    def run(self, container_id: str, *args: str, **process: object) -> None:
        self.create(container_id, *args, **process)
        self.call("StartContainer", agent_pb2.StartContainerRequest(container_id=container_id))

    def exec(self, container_id: str, exec_id: str, *args: str, **process: object) -> None:
        message = process_to_proto(make_process(*args, **process))
        self.call(
            "ExecProcess",
            agent_pb2.ExecProcessRequest(container_id=container_id, exec_id=exec_id, process=message),
        )

    def read(self, container_id: str, exec_id: str = "", stream: str = "Stdout", until: bytes = b"") -> bytes:
        out = b""
        request = agent_pb2.ReadStreamRequest(container_id=container_id, exec_id=exec_id, len=65536)
        while data := self.call(f"Read{stream}", request).data:  # type: ignore[attr-defined]
            out += data
            if until and until in out:
                break
        return out

    def write(self, container_id: str, data: bytes, exec_id: str = "") -> int:
        request = agent_pb2.WriteStreamRequest(container_id=container_id, exec_id=exec_id, data=data)
        return self.call("WriteStdin", request).len  # type: ignore[attr-defined, no-any-return]

    def wait(self, container_id: str, exec_id: str = "", timeout: float = 20.0) -> int:
        request = agent_pb2.WaitProcessRequest(container_id=container_id, exec_id=exec_id)
        return self.call("WaitProcess", request, timeout).status  # type: ignore[attr-defined, no-any-return]

    def signal(self, container_id: str, signo: int, exec_id: str = "") -> None:
        request = agent_pb2.SignalProcessRequest(container_id=container_id, exec_id=exec_id, signal=signo)
        self.call("SignalProcess", request)

    def remove(self, container_id: str) -> None:
        self.call("RemoveContainer", agent_pb2.RemoveContainerRequest(container_id=container_id))

    def leftovers(self) -> dict[str, object]:
        """What a container would leave: files, mounts, cgroups, processes, descriptors."""
        run = Path(f"/proc/{self.pid}/root/run")
        mounts = Path(f"/proc/{self.pid}/mountinfo").read_text().splitlines()
        cgroups = Path(f"/proc/{self.pid}/root/sys/fs/cgroup/{self.cgroup}")
        return {
            "files": sorted(str(path.relative_to(run)) for path in run.rglob("*")),
            "mounts": [line.split(" ")[4] for line in mounts if "kata-containers" in line],
            "cgroups": [path.name for path in cgroups.glob("*/")],
            "children": Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split(),
            "fds": len(os.listdir(f"/proc/{self.pid}/fd")),
        }

    def close(self) -> None:
        try:
            if self.process.poll() is None:
                self.call("DestroySandbox", agent_pb2.DestroySandboxRequest())
                self.process.wait(20)
        finally:
            self.client.close()
            self.process.kill()
            self.process.wait(20)
        parent = Path("/sys/fs/cgroup/unified", self.cgroup)
        if parent.exists():  # crun leaves it: it may be a pod's
            parent.rmdir()


def make_rootfs(folder: Path) -> Path:
    (folder / "bin").mkdir(parents=True)
    for name in ("proc", "dev", "sys", "tmp"):
        (folder / name).mkdir()
    try:
        os.link("/bin/busybox", folder / "bin/busybox")
    except OSError:
        (folder / "bin/busybox").write_bytes(Path("/bin/busybox").read_bytes())
        (folder / "bin/busybox").chmod(0o755)
    for name in APPLETS:
        (folder / "bin" / name).symlink_to("busybox")
    (folder / "not-executable").write_text("#!/bin/sh\n")
    return folder


def make_process(*args: str, **more: object) -> Process:
    process: Process = {"user": {"uid": 0, "gid": 0}, "args": list(args), "env": ["PATH=/bin"], "cwd": "/"}
    process.update(more)  # type: ignore[typeddict-item]  # keys of a Process
    return process


def create_request(
    container_id: str, cgroup: str, rootfs: Path, *args: str, **process: object
) -> agent_pb2.CreateContainerRequest:
    spec: Spec = {
        "ociVersion": "1.0.2",
        "process": make_process(*args, **process),
        "root": {"path": str(rootfs)},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance"]},
        ],
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": [{"type": "network"}, {"type": "cgroup"}, {"type": "mount"}],
        },
    }
    return agent_pb2.CreateContainerRequest(container_id=container_id, exec_id=container_id, OCI=spec_to_proto(spec))


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    made = Agent(tmp_path)
    try:
        made.call("CreateSandbox", agent_pb2.CreateSandboxRequest(sandbox_id="sb", hostname="pod"))
        yield made
    finally:
        made.close()


def raises(code: Code) -> pytest.RaisesExc[RpcError]:
    return pytest.raises(RpcError, check=lambda error: error.code == code)


def test_a_container_lives_and_leaves_nothing(agent: Agent) -> None:
    agent.run("first", "true")  # what the first container brings once (the sandbox's pid namespace) may stay
    agent.wait("first")
    agent.remove("first")
    before = agent.leftovers()
    agent.run("box", "sh", "-c", "read line; echo got $line; echo oops >&2; exit 7")
    assert agent.write("box", b"hello\n") == 6
    assert agent.read("box") == b"got hello\n"
    assert agent.read("box", stream="Stderr") == b"oops\n"
    assert agent.wait("box") == 7
    assert agent.wait("box") == 7, "the record of the first process stays"
    agent.remove("box")
    assert agent.leftovers() == before
    with raises(Code.INVALID_ARGUMENT):
        agent.remove("box")


def test_many_execs_leave_nothing(agent: Agent) -> None:
    agent.run("box", "sleep", "1000")
    before = agent.leftovers()
    for number in range(8):
        exec_id = f"exec-{number % 2}"
        agent.exec("box", exec_id, "sh", "-c", f"cat; exit {number}")
        agent.write("box", b"x" * number, exec_id) if number else None
        agent.call("CloseStdin", agent_pb2.CloseStdinRequest(container_id="box", exec_id=exec_id))
        assert agent.read("box", exec_id) == b"x" * number
        assert agent.read("box", exec_id, "Stderr") == b""
        assert agent.wait("box", exec_id) == number
        with raises(Code.NOT_FOUND):
            agent.wait("box", exec_id)
    assert agent.leftovers() == before


def test_an_exit_before_the_wait_is_kept_for_every_waiter(agent: Agent) -> None:
    agent.run("box", "sleep", "1000")
    agent.exec("box", "quick", "sh", "-c", "exit 42")
    codes: list[int] = []
    threads = [threading.Thread(target=lambda: codes.append(agent.wait("box", "quick"))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [42] * 5


def test_terminal_with_resize_and_end_of_input(agent: Agent) -> None:
    agent.run("box", "sh", "-c", "read go; stty size; cat; echo over", terminal=True)
    agent.call("TtyWinResize", agent_pb2.TtyWinResizeRequest(container_id="box", row=33, column=101))
    agent.write("box", b"go\n")
    assert b"33 101\r\n" in agent.read("box", until=b"33 101\r\n")
    agent.write("box", b"line\n")
    assert b"line\r\n" in agent.read("box", until=b"line\r\nline\r\n")
    agent.call("CloseStdin", agent_pb2.CloseStdinRequest(container_id="box"))
    agent.call("CloseStdin", agent_pb2.CloseStdinRequest(container_id="box"))
    assert agent.read("box").endswith(b"over\r\n")
    assert agent.wait("box") == 0
    agent.remove("box")


def test_resize_without_a_terminal_is_unavailable(agent: Agent) -> None:
    agent.run("box", "sleep", "1000")
    with raises(Code.UNAVAILABLE):
        agent.call("TtyWinResize", agent_pb2.TtyWinResizeRequest(container_id="box", row=1, column=1))


@pytest.mark.parametrize(
    ("script", "signo", "code"),
    [
        ("exec sleep 1000", signal.SIGTERM, 137),  # would be dropped by the kernel: pid 1 with default action
        ("trap 'exit 9' TERM; echo ready; while :; do sleep 0.1; done", signal.SIGTERM, 9),
        ("exec sleep 1000", signal.SIGKILL, 137),
    ],
)
def test_signals_to_the_first_process(agent: Agent, script: str, signo: int, code: int) -> None:
    agent.run("box", "sh", "-c", script)
    if "ready" in script:
        agent.read("box", until=b"ready")
    agent.signal("box", signo)
    assert agent.wait("box") == code
    agent.signal("box", signo)  # gone already: no error


def test_sigkill_for_the_first_process_takes_the_execs_along(agent: Agent) -> None:
    agent.run("box", "sleep", "1000")
    agent.exec("box", "other", "sleep", "1000")
    agent.signal("box", signal.SIGKILL)
    assert (agent.wait("box"), agent.wait("box", "other")) == (137, 137)


def test_signal_to_an_exec_spares_the_container(agent: Agent) -> None:
    agent.run("box", "sleep", "1000")
    agent.exec("box", "other", "sleep", "1000")
    agent.signal("box", signal.SIGTERM, "other")
    assert agent.wait("box", "other") == 143
    with raises(Code.NOT_FOUND):
        agent.signal("box", signal.SIGTERM, "never")
    with pytest.raises(RpcError, match="ESRCH: No such process"):
        agent.signal("box", signal.SIGTERM, "other")


@pytest.mark.parametrize(
    ("command", "text"), [("/nowhere", "not found"), ("nowhere", "not found"), ("/not-executable", "denied")]
)
def test_a_command_that_cannot_run_fails_create_and_leaves_nothing(agent: Agent, command: str, text: str) -> None:
    before = agent.leftovers()
    with pytest.raises(RpcError, match=f"(?i){text}"):
        agent.create("box", command)
    after = agent.leftovers()
    after["files"] = [name for name in after["files"] if "crun" not in name]  # type: ignore[attr-defined]
    assert after == before
    agent.run("box", "sleep", "1000")
    with pytest.raises(RpcError, match=f"(?i){text}"):
        agent.exec("box", "bad", command)


def test_output_is_whole_though_a_grandchild_holds_the_pipe(agent: Agent) -> None:
    agent.run("box", "sleep", "1000")
    agent.exec("box", "bg", "sh", "-c", "sleep 1000 & seq 1 5000; exit 3")
    assert agent.wait("box", "bg") == 3
    started = time.monotonic()
    assert agent.read("box", "bg") == b"".join(b"%d\n" % number for number in range(1, 5001))
    assert time.monotonic() - started < 5.0


def test_large_data_through_both_directions(agent: Agent) -> None:
    agent.run("box", "cat")
    data = os.urandom(1 << 20) * 4
    received = bytearray()
    reader = threading.Thread(target=lambda: received.extend(agent.read("box")))
    reader.start()
    for start in range(0, len(data), 1 << 19):
        assert agent.write("box", data[start : start + (1 << 19)]) == 1 << 19
    agent.write("box", b"")
    reader.join(60)
    assert bytes(received) == data


def test_a_blocked_write_blocks_nothing_else_and_ends_with_the_process(agent: Agent) -> None:
    agent.run("box", "sleep", "1000")
    errors: list[RpcError] = []

    def write() -> None:
        try:
            agent.write("box", b"x" * (3 << 20))
        except RpcError as error:
            errors.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    agent.exec("box", "meanwhile", "true")
    assert agent.wait("box", "meanwhile") == 0
    agent.call("StatsContainer", agent_pb2.StatsContainerRequest(container_id="box"))
    agent.signal("box", signal.SIGKILL)
    writer.join(10)
    assert [error.code for error in errors] == [Code.FAILED_PRECONDITION]


def test_exec_keeps_capabilities_rlimits_and_no_new_privileges(agent: Agent) -> None:
    caps = {kind: ["CAP_CHOWN"] for kind in ("bounding", "effective", "permitted")}
    agent.run("box", "sleep", "1000", capabilities=caps, noNewPrivileges=True)
    agent.exec("box", "own", "cat", "/proc/self/status", capabilities={}, rlimits=[])
    assert "NoNewPrivs:\t1" in agent.read("box", "own").decode()
    net = {kind: ["CAP_CHOWN", "CAP_NET_RAW"] for kind in ("bounding", "effective", "permitted")}
    limits = [{"type": "RLIMIT_NOFILE", "hard": 77, "soft": 66}]
    agent.exec("box", "more", "sh", "-c", "cat /proc/self/status; ulimit -n", capabilities=net, rlimits=limits)
    text = agent.read("box", "more").decode()
    assert "CapEff:\t0000000000002001" in text
    assert text.endswith("66\n")


def test_namespaces_of_the_sandbox(agent: Agent) -> None:
    for name in ("one", "two"):
        agent.run(name, "sleep", "1000")
        links = " ".join(f"/proc/self/ns/{kind}" for kind in ("ipc", "uts", "pid"))
        script = f"for link in {links}; do busybox readlink $link; done; busybox hostname"
        agent.exec(name, "ns", "sh", "-c", script)
    one, two = (agent.read(name, "ns").decode().split() for name in ("one", "two"))
    assert one[:2] == two[:2]
    assert one[2] != two[2]
    assert one[3] == two[3] == "pod"
    request = agent.request("three", "/bin/busybox", "readlink", "/proc/self/ns/pid")
    request.sandbox_pidns = True
    agent.call("CreateContainer", request)
    agent.call("StartContainer", agent_pb2.StartContainerRequest(container_id="three"))
    assert agent.read("three").decode().split() == [one[2]], "the first container's pid namespace is the sandbox's"


def test_a_container_among_the_processes_of_another(agent: Agent) -> None:
    agent.run("pause", "sleep", "1000")
    agent.run("target", "sh", "-c", "readlink /proc/self/ns/pid; exec sleep 1000")
    space = agent.read("target", until=b"]")
    request = agent.request("debug", "/bin/busybox", "readlink", "/proc/self/ns/pid")
    request.OCI.Annotations[PID_TARGET] = "target"
    request.sandbox_pidns = True  # for agents that do not know the annotation
    agent.call("CreateContainer", request)
    agent.call("StartContainer", agent_pb2.StartContainerRequest(container_id="debug"))
    assert agent.read("debug").split() == space.split()
    agent.remove("debug")
    agent.call("SignalProcess", agent_pb2.SignalProcessRequest(container_id="target", signal=9))
    agent.wait("target")
    before = agent.leftovers()
    for name in ("target", "nobody"):
        request = agent.request("late", "true")
        request.OCI.Annotations[PID_TARGET] = name
        with pytest.raises(RpcError, match=name):
            agent.call("CreateContainer", request)
    assert agent.leftovers() == before


def test_pause_and_resume(agent: Agent) -> None:
    agent.run("box", "sh", "-c", "while read x; do echo $x; done")
    agent.call("PauseContainer", agent_pb2.PauseContainerRequest(container_id="box"))
    agent.write("box", b"late\n")
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(agent.read("box", until=b"late\n")))
    reader.start()
    reader.join(0.3)
    assert not got
    agent.call("ResumeContainer", agent_pb2.ResumeContainerRequest(container_id="box"))
    reader.join(10)
    assert got == [b"late\n"]


def test_update_says_what_crun_says(agent: Agent) -> None:
    agent.run("box", "sleep", "1000")
    request = agent_pb2.UpdateContainerRequest(container_id="box", resources=resources_to_proto({"pids": {"limit": 9}}))
    with pytest.raises(RpcError, match="pids"):  # this host's cgroup v2 has no controllers
        agent.call("UpdateContainer", request)


def test_stats_have_cpu_time_and_the_network(agent: Agent) -> None:
    agent.run("box", "sh", "-c", "busybox timeout 0.3 sh -c 'while :; do :; done'; echo done; sleep 1000")
    agent.read("box", until=b"done")
    reply = agent.call("StatsContainer", agent_pb2.StatsContainerRequest(container_id="box"))
    assert isinstance(reply, agent_pb2.StatsContainerResponse)
    usage = reply.cgroup_stats.cpu_stats.cpu_usage
    assert usage.total_usage > 100_000_000
    assert usage.usage_in_usermode > 0
    assert usage.usage_in_usermode + usage.usage_in_kernelmode == pytest.approx(usage.total_usage, rel=0.1)
    names = [row.name for row in reply.network_stats]
    assert "lo" in names
    assert "eth0" not in names


def test_states_are_checked(agent: Agent) -> None:
    agent.create("box", "sleep", "1000")
    with raises(Code.ALREADY_EXISTS):
        agent.create("box", "true")
    with raises(Code.FAILED_PRECONDITION):
        agent.exec("box", "early", "true")
    agent.call("StartContainer", agent_pb2.StartContainerRequest(container_id="box"))
    with raises(Code.FAILED_PRECONDITION):
        agent.call("StartContainer", agent_pb2.StartContainerRequest(container_id="box"))
    with raises(Code.INVALID_ARGUMENT):
        agent.create("../etc", "true")
    with raises(Code.INVALID_ARGUMENT):
        agent.create("shared", "true")
    with raises(Code.INVALID_ARGUMENT):
        agent.signal("box", 999)
    with raises(Code.ALREADY_EXISTS):
        agent.call("CreateSandbox", agent_pb2.CreateSandboxRequest(sandbox_id="other"))


def test_guest_details_health_and_unknown_requests(agent: Agent) -> None:
    details = agent.call("GetGuestDetails", agent_pb2.GuestDetailsRequest(mem_block_size=True))
    assert isinstance(details, agent_pb2.GuestDetailsResponse)
    assert details.agent_details.supports_seccomp
    status = agent.client.call("grpc.Health/Check", health_pb2.CheckRequest(), timeout=5.0)
    assert status.status == health_pb2.HealthCheckResponse.SERVING  # type: ignore[attr-defined]
    with raises(Code.INVALID_ARGUMENT):
        agent.call("SetPolicy", agent_pb2.SetPolicyRequest(policy="x"))


def test_dns_and_hostname_reach_the_guest(tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    try:
        request = agent_pb2.CreateSandboxRequest(sandbox_id="sb", dns=["nameserver 192.0.2.1", "search x"])
        agent.call("CreateSandbox", request)
        resolv = Path(f"/proc/{agent.pid}/root/etc/resolv.conf")
        assert resolv.read_text() == "nameserver 192.0.2.1\nsearch x\n"
        agent.call("CreateSandbox", request)  # a retry is fine
    finally:
        agent.close()


def test_a_mount_of_one_container_is_shared_with_another(agent: Agent) -> None:
    agent.run("first", "sh", "-c", "echo there >/dev/file; echo ready; sleep 1000")
    agent.read("first", until=b"ready")
    before = agent.leftovers()
    request = agent.request("second", "sh", "-c", "cat /tmp/file; echo back >/tmp/answer; cat /proc/mounts")
    request.shared_mounts.add(name="x", src_ctr="first", src_path="/dev", dst_ctr="second", dst_path="/tmp")
    request.shared_mounts.add(name="y", src_ctr="first", src_path="/dev", dst_ctr="other", dst_path="/nowhere")
    agent.call("CreateContainer", request)
    agent.call("StartContainer", agent_pb2.StartContainerRequest(container_id="second"))
    said = agent.read("second")
    assert said.startswith(b"there\n") and b"/nowhere" not in said
    agent.exec("first", "look", "cat", "/dev/answer")
    assert agent.read("first", "look") == b"back\n"
    agent.read("first", "look", "Stderr")
    agent.wait("first", "look")
    agent.remove("second")
    assert agent.leftovers() == before
    for bad in ({"src_ctr": "none"}, {"src_path": "relative"}, {"src_path": "/none"}):
        request = agent.request("third", "true")
        request.shared_mounts.add(**{"src_ctr": "first", "src_path": "/dev", "dst_path": "/tmp", **bad})
        with pytest.raises(RpcError):
            agent.call("CreateContainer", request)
    assert agent.leftovers() == before


def test_destroy_ends_everything(agent: Agent) -> None:
    agent.run("box", "sleep", "1000")
    codes: list[Code] = []

    def watch() -> None:
        with pytest.raises(RpcError) as caught:
            agent.call("GetOOMEvent", agent_pb2.GetOOMEventRequest(), None)
        codes.append(caught.value.code)

    watcher = threading.Thread(target=watch)
    watcher.start()
    agent.call("DestroySandbox", agent_pb2.DestroySandboxRequest())
    assert agent.process.wait(20) == 0, agent.log.read_text()
    watcher.join(10)
    assert codes == [Code.UNAVAILABLE]


def test_memory_when_serving(agent: Agent) -> None:
    status = Path(f"/proc/{agent.pid}/status").read_text()
    rss = int(status.split("VmRSS:")[1].split()[0])
    print(f"agent RSS when serving: {rss} KiB")
    assert rss < 20 * 1024

"""`kata-agent-ctl` against the real agent, outside a VM: every request by its name, and a container's life."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata.agentctl.rpcs import all_methods
from kata.linux.inotify import Inotify
from kata.protocol.server import snake_case
from tests.kernel.test_agent import Agent, make_process

pytestmark = pytest.mark.root

ROOT = Path(__file__).parents[2]


class Tool:
    """The command, for one agent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.agent = Agent(folder)
        self.address = f"unix://{folder}/agent.sock"

    def __call__(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-I", "-m", "kata.agentctl", "--server-address", self.address, *words]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, check=False)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def bundle(self, *args: str) -> Path:
        """A bundle of the agent's root file system."""
        folder = self.folder / "bundle"
        folder.mkdir(exist_ok=True)
        mounts = [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
        ]
        spec = {
            "ociVersion": "1.0.2",
            "process": make_process(*args),
            "root": {"path": "../rootfs"},
            "mounts": mounts,
            "linux": {"cgroupsPath": f"/{self.agent.cgroup}/box", "namespaces": [{"type": "mount"}]},
        }
        (folder / "config.json").write_text(json.dumps(spec))
        return folder


@pytest.fixture
def tool(tmp_path: Path) -> Iterator[Tool]:
    made = Tool(tmp_path)
    try:
        yield made
    finally:
        made.agent.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tool]:
    made = Tool(tmp_path_factory.mktemp("agentctl"))
    try:
        yield made
    finally:
        made.agent.close()


def wait_for(log: Path, text: str, timeout: float = 20.0) -> None:
    """Until `text` is in the file."""
    deadline = time.monotonic() + timeout
    with Inotify() as changes:
        changes.watch(str(log))
        while text not in log.read_text():
            left = deadline - time.monotonic()
            assert left > 0, log.read_text()
            select.select([changes], [], [], left)
            changes.drain()


def implemented(name: str) -> bool:
    """Whether this agent has a handler for the request."""
    from kata.agent.service import AgentService, Health

    return hasattr(AgentService, snake_case(name)) or hasattr(Health, snake_case(name))


# Requests that are dangerous for whom the agent shares a kernel with, even empty ones, and one that ends it.
NOT_ON_A_HOST = {"SetGuestDateTime", "OnlineCPUMem", "DestroySandbox", "MemHotplugByProbe"}


@pytest.mark.parametrize("name", [found.name for found in all_methods() if found.name not in NOT_ON_A_HOST])
def test_every_request_reaches_the_agent(shared: Tool, name: str) -> None:
    """It is answered, or refused by the handler; `is not implemented` comes from the server where there is none."""
    done = shared("--no-auto-values", "--timeout", "2", "--json", name)
    if done.returncode == 0:
        json.loads(done.stdout)
        return
    assert done.returncode == 1, done.stderr
    code = done.stderr.removeprefix("kata-agent-ctl: ").partition(":")[0]
    if implemented(name):
        assert "is not implemented" not in done.stderr
        assert code in REFUSALS, done.stderr
    else:
        assert code == "UNIMPLEMENTED"
        assert f"{name} is not implemented" in done.stderr


REFUSALS = ["INVALID_ARGUMENT", "INTERNAL", "NOT_FOUND", "FAILED_PRECONDITION", "DEADLINE_EXCEEDED", "UNIMPLEMENTED"]
LIFE = """
# What a container goes through, from its creation to nothing.
CreateSandbox hostname=pod dns='nameserver 192.0.2.1'
expect ALREADY_EXISTS CreateSandbox sid=another

CreateContainer cid=box
expect ALREADY_EXISTS CreateContainer cid=box
expect FAILED_PRECONDITION ExecProcess process={"args":["true"],"cwd":"/"}
StartContainer
expect data=ready ReadStdout len=5

ExecProcess process={"args": ["sh", "-c", "read line; echo got $line; exit 7"], "cwd": "/", "env": ["PATH=/bin"]}
WriteStdin exec_id=$exec_id data=it
WriteStdin exec_id=$exec_id data=hex:0a
ReadStdout exec_id=$exec_id len=100
expect status=7 WaitProcess exec_id=$exec_id
expect NOT_FOUND WaitProcess exec_id=never-there

PauseContainer
ResumeContainer
SignalProcess signal=SIGKILL
expect status=137 WaitProcess
RemoveContainer
expect INVALID_ARGUMENT RemoveContainer
echo done
"""


def test_a_life_in_a_script(tool: Tool) -> None:
    bundle = tool.bundle("sh", "-c", "echo -n ready; sleep 1000")
    done = tool("--bundle-dir", str(bundle), "script", "-", stdin=LIFE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["readylen: 2", "len: 1", "got it", "status: 7", "status: 137", "done"]
    after = tool.agent.leftovers()
    assert (after["mounts"], after["cgroups"], after["children"]) == (["/etc/resolv.conf"], [], [])


def test_a_script_stops_where_it_fails(tool: Tool) -> None:
    done = tool("script", "-", stdin="Check\n\nStartContainer cid=nowhere\nCheck\n")
    assert (done.returncode, done.stdout) == (1, "status: SERVING\n")
    assert done.stderr.startswith("kata-agent-ctl: standard input:3: INVALID_ARGUMENT: ")


def test_a_command_in_upstreams_form(tool: Tool) -> None:
    bundle = tool.bundle("sh", "-c", "echo hello; exit 3")
    spec = tool.folder / "spec.json"
    root = {"path": str(tool.agent.rootfs)}
    spec.write_text(json.dumps({**json.loads((bundle / "config.json").read_text()), "root": root}))
    commands = ["CreateSandbox", f"CreateContainer cid=box spec=file://{spec}", "StartContainer cid=box"]
    commands += ['WaitProcess json://{"container_id": "box"}', "ReadStdout cid=box len=100"]
    done = tool("connect", *(word for command in commands for word in ("-c", command)))
    assert (done.returncode, done.stdout) == (0, "status: 3\nhello\n"), done.stderr


def test_a_file_is_copied_in(tool: Tool) -> None:
    data = os.urandom(4096)
    (tool.folder / "data").write_bytes(data)
    path = "/run/kata-containers/shared/containers/copied"
    words = ["file_size=4096", "file_mode=0o100640", "dir_mode=0o750", f"data=@{tool.folder}/data"]
    done = tool("-c", "CreateSandbox", "-c", " ".join(["CopyFile", f"path={path}", *words]))
    assert done.returncode == 0, done.stderr
    assert Path(f"/proc/{tool.agent.pid}/root{path}").read_bytes() == data


def test_the_agent_is_found_by_its_other_option_too(tmp_path: Path) -> None:
    """--server is what people type; --server-addr is what the kernel command line has."""
    address = f"unix://{tmp_path}/other.sock"
    agent = [sys.executable, "-I", "-m", "kata.agent", "--server", address, "--no-cgroups", "--no-device-rules"]
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(["unshare", "--mount", "--net", *agent], stderr=output)
    try:
        ask = [str(ROOT / "bin/kata-agent-ctl"), "--server-address", address]
        wait_for(log, "serving")
        done = subprocess.run(
            [*ask, "-c", "Check", "-c", "DestroySandbox"], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == (0, "status: SERVING\n"), done.stderr + log.read_text()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait(20)

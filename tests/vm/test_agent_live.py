"""What only a real guest can show of the agent: its kernel's limits, its ports, its hooks.

One VM for the whole module, with an image for debugging, so that a shell of the guest itself can be asked too.
"""

from __future__ import annotations

import json
import select
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
import pytest
from google.protobuf.message import Message

from kata import paths
from kata.hypervisor.machine import MachineSpec, SharedDirectory
from kata.hypervisor.qemu.machine import QemuMachine
from kata.oci.convert import process_to_proto, resources_to_proto
from kata.protocol.client import Client, connect_agent
from kata.protocol.connection import Connection
from kata.protocol.generated import agent_pb2, health_pb2
from kata.protocol.status import Code, RpcError
from kata.protocol.transport import dial
from kata.storage.virtiofs import start_share
from tests.kernel.test_agent import create_request, make_process, make_rootfs

pytestmark = [pytest.mark.vm, pytest.mark.root, pytest.mark.usefixtures("busybox"), pytest.mark.timeout(600)]

UID = 1_879_048_195
MIB = 1 << 20
SHARE = "/run/kata-containers/shared/containers"
ROOTFS = Path(f"{SHARE}/v0")
POLICIES = Path(__file__).parents[2] / "docs/policies"
HOOKS = f"{SHARE}/v1"
CAPABILITIES = ["CAP_MKNOD", "CAP_SYS_ADMIN", "CAP_KILL", "CAP_DAC_OVERRIDE"]
HOOK = """#!/bin/sh
read state
id=${state#*'"id":"'}
echo "$1 ${id%%'"'*}" >> "${0%/*/*}/log"
"""
BOMB = "bomb() { bomb | bomb & }; bomb; read x"


class Shell:
    """A shell of the guest, over the debug console."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._said = b""
        self._asked = 0

    def ask(self, command: str) -> str:
        """The output of a command, between two marks that its own echo does not hold."""
        self._asked += 1
        begin, end = f"begin{self._asked}", f"end{self._asked}"
        self.connection.write(f"echo beg''in{self._asked}; {command}; echo en''d{self._asked}\r".encode())
        text = self.until(f"{end}\r\n")
        return text.partition(f"{begin}\r\n")[2].partition(f"{end}\r\n")[0].replace("\r\n", "\n")

    def until(self, mark: str) -> str:
        """All that is said up to a mark."""
        while mark.encode() not in self._said:
            assert select.select([self.connection], [], [], 60.0)[0], self._said
            data = self.connection.read(65536)
            assert data, self._said
            self._said += data
        text, self._said = self._said.decode("utf-8", "replace"), b""
        return text


class Log:
    """The agent's log as the host gets it: all records so far, and waiting for one."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._changed = threading.Condition()
        self.records: list[dict[str, str]] = []
        threading.Thread(target=self._read, daemon=True).start()

    def wait_for(self, timeout: float = 60.0, **fields: str) -> dict[str, str]:
        """The first record whose fields hold these texts."""
        with self._changed:
            found = self._changed.wait_for(lambda: self._find(fields), timeout)
        assert found, self.records[-20:]
        return found

    def _find(self, fields: dict[str, str]) -> dict[str, str] | None:
        matching = (r for r in self.records if all(text in r.get(key, "") for key, text in fields.items()))
        return next(matching, None)

    def _read(self) -> None:
        rest = b""
        while data := self.connection.read(65536):
            *lines, rest = (rest + data).split(b"\n")
            with self._changed:
                self.records += [json.loads(line) for line in lines]
                self._changed.notify_all()


class Guest:
    """The VM's machine, its agent, a shell in the guest and its log."""

    def __init__(self, machine: QemuMachine, client: Client, shell: Shell, log: Log, hooks: Path) -> None:
        self.machine, self.client, self.shell, self.log, self.hooks = machine, client, shell, log, hooks
        self._execs = 0

    def call(self, method: str, request: Message, timeout: float = 120.0) -> Message:
        return self.client.call(f"grpc.AgentService/{method}", request, timeout=timeout)

    def check(self, timeout: float = 60.0) -> None:
        self.client.call("grpc.Health/Check", health_pb2.CheckRequest(), timeout=timeout)

    def create_sandbox(self) -> None:
        request = agent_pb2.CreateSandboxRequest(sandbox_id="live", hostname="pod", sandbox_pidns=True)
        request.guest_hook_path = HOOKS
        request.storages.add(
            driver="virtio-fs", source="kataShared", fstype="virtiofs", mount_point=SHARE, options=["nodev"]
        )
        self.call("CreateSandbox", request)

    def request(self, container_id: str, *args: str, **limits: object) -> agent_pb2.CreateContainerRequest:
        caps = dict.fromkeys(("bounding", "effective", "permitted"), CAPABILITIES)
        request = create_request(container_id, f"/{container_id}", ROOTFS, *args, capabilities=caps)
        if limits:
            request.OCI.Linux.Resources.CopyFrom(resources_to_proto(limits))  # type: ignore[arg-type]
        return request

    def run(self, request: agent_pb2.CreateContainerRequest) -> None:
        self.call("CreateContainer", request)
        self.call("StartContainer", agent_pb2.StartContainerRequest(container_id=request.container_id))

    def exec(self, container_id: str, script: str) -> str:
        """What a shell in a container says."""
        self._execs += 1
        ids = {"container_id": container_id, "exec_id": f"e{self._execs}"}
        process = process_to_proto(make_process("sh", "-c", f"exec 2>&1; {script}"))
        self.call("ExecProcess", agent_pb2.ExecProcessRequest(process=process, **ids))  # type: ignore[arg-type]
        said = self.output(**ids)
        self.call("WaitProcess", agent_pb2.WaitProcessRequest(**ids))
        return said

    def output(self, container_id: str, exec_id: str = "") -> str:
        said = b""
        request = agent_pb2.ReadStreamRequest(container_id=container_id, exec_id=exec_id, len=65536)
        while data := self.call("ReadStdout", request).data:  # type: ignore[attr-defined]
            said += data
        return said.decode()

    def wait(self, container_id: str) -> int:
        request = agent_pb2.WaitProcessRequest(container_id=container_id)
        return self.call("WaitProcess", request).status  # type: ignore[attr-defined, no-any-return]

    def kill(self, container_id: str) -> None:
        self.call("SignalProcess", agent_pb2.SignalProcessRequest(container_id=container_id, signal=9))

    def remove(self, container_id: str) -> None:
        self.call("RemoveContainer", agent_pb2.RemoveContainerRequest(container_id=container_id))


def make_hooks(folder: Path) -> Path:
    for kind in ("prestart", "poststart", "poststop"):
        (folder / kind).mkdir(parents=True)
        (folder / kind / "10-note").write_text(HOOK)
        (folder / kind / "10-note").chmod(0o755)
        (folder / kind / "README").write_text("no program\n")
    folder.chmod(0o777)
    return folder


def make_spec(folder: Path, shares: tuple[SharedDirectory, ...], image: Path, *params: str) -> MachineSpec:
    assets = paths.assets_dir()
    folder.mkdir(mode=0o700, exist_ok=True)
    return MachineSpec(
        sandbox_id="live",
        directory=str(folder),
        kernel=str(assets / "vmlinuz"),
        initrd=str(assets / "initrd.img") if (assets / "initrd.img").exists() else None,
        image=str(image),
        kernel_params=params,
        vcpus=2,
        accelerator="tcg",
        transport="serial",
        debug_console=True,
        agent_log=True,
        shares=shares,
        uid=UID,
        gid=UID,
    )


@contextmanager
def boot(folder: Path, image: Path, *params: str) -> Iterator[Guest]:
    """A VM whose agent has a sandbox and a share with a root file system and guest hooks."""
    rootfs = make_rootfs(folder / "rootfs")
    for name in ("grep", "hostname", "ls", "mkdir", "mknod", "ps", "readlink"):
        (rootfs / "bin" / name).symlink_to("busybox")
    hooks = make_hooks(folder / "hooks")
    (folder / "vm").mkdir(mode=0o700)
    with ExitStack() as stack:
        share = stack.enter_context(start_share(str(folder / "vm")))
        for name, path in (("v0", rootfs), ("v1", hooks)):
            share.add(name, str(path), readonly=False)
        spec = make_spec(folder / "vm", (SharedDirectory(share.tag, share.socket_path),), image, *params)
        machine = stack.enter_context(QemuMachine(spec))
        machine.boot()
        client = connect_agent(lambda: dial(machine.agent_address(), 60.0), 120.0)
        stack.callback(client.close)
        log = Log(stack.enter_context(dial(machine.stream_address("log"), 10.0)))
        stack.callback(log.connection.shutdown)
        shell = Shell(stack.enter_context(dial(machine.stream_address("debug"), 10.0)))
        made = Guest(machine, client, shell, log, hooks)
        made.create_sandbox()
        yield made


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory, debug_image: Path) -> Iterator[Guest]:
    params = ("maxcpus=1", "agent.log=debug", "agent.mem_agent_enable", "agent.unheard_of=7")
    with boot(tmp_path_factory.mktemp("live"), debug_image, *params) as made:
        made.run(made.request("box", "sleep", "100000"))
        yield made


def test_an_unknown_option_is_said_on_the_console_and_in_the_log(guest: Guest) -> None:
    assert guest.log.wait_for(msg="an unknown setting is ignored")["setting"] == "agent.unheard_of"
    assert guest.log.wait_for(msg="serving")["pid"] == "1"
    assert "setting=agent.unheard_of" in guest.machine.console_tail(200)


def test_the_debug_console_is_the_guest_itself(guest: Guest) -> None:
    assert guest.shell.ask("cat /proc/1/comm; stty size; echo $PPID").split()[1:] == ["24", "80", "1"]
    assert "agent.debug.0" in guest.shell.ask("cat /sys/class/virtio-ports/*/name")
    guest.shell.connection.write(b"exit\r")
    guest.shell.until("exit\r\n")
    guest.shell.until("# ")  # the port stays open, so the next shell is on it
    assert guest.shell.ask("echo another").strip() == "another"


def test_a_memory_hog_is_killed_and_told(guest: Guest) -> None:
    hog = ("dd", "if=/dev/zero", "of=/dev/null", "bs=128M", "count=1")
    guest.run(guest.request("hog", *hog, memory={"limit": 24 * MIB}))
    assert guest.wait("hog") == 137
    event = guest.call("GetOOMEvent", agent_pb2.GetOOMEventRequest())
    assert event == agent_pb2.OOMEvent(container_id="hog")
    guest.remove("hog")
    guest.check()


def test_a_cpu_comes_online(guest: Guest) -> None:
    assert guest.shell.ask("cat /sys/devices/system/cpu/online").strip() == "0"
    guest.call("OnlineCPUMem", agent_pb2.OnlineCPUMemRequest(nb_cpus=2, cpu_only=True))
    assert guest.exec("box", "grep -c ^processor /proc/cpuinfo").strip() == "2"
    with pytest.raises(RpcError, match="3 CPUs are wanted, but only 2"):
        guest.call("OnlineCPUMem", agent_pb2.OnlineCPUMemRequest(nb_cpus=3, cpu_only=True))


def test_a_container_cannot_open_the_guests_disk(guest: Guest) -> None:
    major, minor = guest.shell.ask("cat /sys/class/block/vda/dev").strip().split(":")
    said = guest.exec("box", f"mknod /dev/disk b {major} {minor}; head -c 1 /dev/disk; echo > /dev/disk; ls /dev/disk")
    assert said.count("Operation not permitted") == 2, said
    said = guest.exec("box", "echo x > /dev/null && head -c 1 /dev/zero | od | head -n 1; head -c 1 /dev/mem")
    assert "not permitted" not in guest.exec("box", "echo x > /dev/null; head -c 1 /dev/urandom > /dev/null")
    kmsg = guest.exec("box", "mknod /dev/kmsg2 c 1 11; head -c 1 /dev/kmsg2")
    assert "Operation not permitted" in kmsg


def test_a_seccomp_filter_holds(guest: Guest) -> None:
    request = guest.request("filtered", "sh", "-c", "grep ^Seccomp: /proc/self/status; mkdir /tmp/x; id -u")
    request.OCI.Linux.Seccomp.DefaultAction = "SCMP_ACT_ALLOW"
    request.OCI.Linux.Seccomp.Syscalls.add(Names=["mkdir", "mkdirat"], Action="SCMP_ACT_ERRNO")
    guest.run(request)
    assert guest.output("filtered").split() == ["Seccomp:", "2", "0"]
    stderr = agent_pb2.ReadStreamRequest(container_id="filtered", len=65536)
    assert b"Operation not permitted" in guest.call("ReadStderr", stderr).data  # type: ignore[attr-defined]
    guest.remove("filtered")


def test_guest_hooks_run_each_at_its_time(guest: Guest) -> None:
    def told() -> list[str]:
        return [line for line in (guest.hooks / "log").read_text().splitlines() if line.endswith(" hooked")]

    guest.call("CreateContainer", guest.request("hooked", "true"))
    assert told() == ["prestart hooked"]
    guest.call("StartContainer", agent_pb2.StartContainerRequest(container_id="hooked"))
    assert told() == ["prestart hooked", "poststart hooked"]
    guest.remove("hooked")
    assert told() == ["prestart hooked", "poststart hooked", "poststop hooked"]


def test_metrics_of_the_guest(guest: Guest) -> None:
    text = guest.call("GetMetrics", agent_pb2.GetMetricsRequest()).metrics  # type: ignore[attr-defined]
    assert "kata_guest_meminfo" in text and "kata_agent_scrape_count 1" in text


@pytest.mark.parametrize("ipv6", [False, True])
def test_an_image_without_iptables_says_so(guest: Guest, ipv6: bool) -> None:
    for method, request in (
        ("GetIPTables", agent_pb2.GetIPTablesRequest(is_ipv6=ipv6)),
        ("SetIPTables", agent_pb2.SetIPTablesRequest(is_ipv6=ipv6, data=b"*filter\nCOMMIT\n")),
    ):
        with pytest.raises(RpcError, match=r"the guest has no ip6?tables") as caught:
            guest.call(method, request)
        assert caught.value.code == Code.UNIMPLEMENTED


def test_namespaces_of_the_sandbox_are_shared(guest: Guest) -> None:
    request = guest.request("friend", "sleep", "100000")
    request.sandbox_pidns = True
    guest.run(request)
    guest.run(guest.request("stranger", "sleep", "100000"))
    script = "hostname; for kind in pid ipc uts mnt; do readlink /proc/self/ns/$kind; done"
    said = [guest.exec(name, script).split() for name in ("box", "friend", "stranger")]
    host, pid, ipc, uts, mnt = zip(*said, strict=True)
    assert host == ("pod", "pod", "pod")
    assert pid[0] == pid[1] != pid[2]
    assert len(set(ipc)) == len(set(uts)) == 1
    assert len(set(mnt)) == 3
    assert guest.exec("friend", "ps | grep -c 'sleep 10000[0]'").strip() == "2"
    assert guest.exec("stranger", "ps | grep -c 'sleep 10000[0]'").strip() == "1"
    for name in ("friend", "stranger"):
        guest.remove(name)


def test_limits_change_while_it_runs(guest: Guest) -> None:
    limits = {"memory": {"limit": 64 * MIB}, "cpu": {"quota": 30000, "period": 100000}, "pids": {"limit": 77}}
    request = agent_pb2.UpdateContainerRequest(container_id="box", resources=resources_to_proto(limits))  # type: ignore[arg-type]
    guest.call("UpdateContainer", request)
    files = guest.shell.ask("cd /sys/fs/cgroup/box; cat memory.max cpu.max pids.max; cd /")
    assert files.split() == [str(64 * MIB), "30000", "100000", "77"]
    stats = guest.call("StatsContainer", agent_pb2.StatsContainerRequest(container_id="box")).cgroup_stats  # type: ignore[attr-defined]
    assert (stats.memory_stats.usage.limit, stats.pids_stats.limit) == (64 * MIB, 77)


def test_a_paused_container_stands_still(guest: Guest) -> None:
    guest.run(guest.request("ticker", "sh", "-c", "while :; do echo; sleep 0.1; done"))
    guest.call("PauseContainer", agent_pb2.PauseContainerRequest(container_id="ticker"))
    assert "frozen 1" in guest.shell.ask("cat /sys/fs/cgroup/ticker/cgroup.events")
    guest.call("ResumeContainer", agent_pb2.ResumeContainerRequest(container_id="ticker"))
    assert "frozen 0" in guest.shell.ask("cat /sys/fs/cgroup/ticker/cgroup.events")
    guest.call("PauseContainer", agent_pb2.PauseContainerRequest(container_id="ticker"))
    guest.kill("ticker")  # a frozen container can still be ended
    assert guest.wait("ticker") == 137
    guest.remove("ticker")


def test_the_memory_agent_compacts_and_reclaims(guest: Guest) -> None:
    calm = {"period_secs": 1, "period_psi_percent_limit": 100}
    compact = agent_pb2.MemAgentCompactConfig(compact_force_times=0, compact_psi_percent_limit=100, **calm)  # type: ignore[arg-type]
    guest.call("MemAgentCompactSet", compact)
    guest.log.wait_for(part="compact", outcome="done=True")
    guest.call("MemAgentCompactSet", agent_pb2.MemAgentCompactConfig(disabled=True))
    guest.exec("box", "dd if=/dev/zero of=/tmp/cached bs=1M count=20")
    reclaim = agent_pb2.MemAgentMemcgConfig(
        eviction_run_aging_count_min=1,
        eviction_psi_percent_limit=100,
        **calm,  # type: ignore[arg-type]
    )
    guest.call("MemAgentMemcgSet", reclaim)
    guest.log.wait_for(part="memcg", outcome="'box': ")
    guest.call("MemAgentMemcgSet", agent_pb2.MemAgentMemcgConfig(disabled=True))
    with pytest.raises(RpcError, match="period_secs=0") as caught:
        guest.call("MemAgentMemcgSet", agent_pb2.MemAgentMemcgConfig(period_secs=0))
    assert caught.value.code == Code.INVALID_ARGUMENT
    assert not [record for record in guest.log.records if record["msg"] == "the memory agent failed"]


@pytest.mark.parametrize("limits", [{"pids": {"limit": 40}}, {}], ids=["limited", "unlimited"])
def test_a_container_that_forks_without_end(guest: Guest, limits: dict[str, object]) -> None:
    guest.run(guest.request("bomb", "sh", "-c", BOMB, **limits))
    end = time.monotonic() + 10.0
    while time.monotonic() < end:
        guest.check()
    guest.kill("bomb")
    assert guest.wait("bomb") == 137
    peak = int(guest.shell.ask("cat /sys/fs/cgroup/bomb/pids.peak"))
    assert peak == 40 if limits else peak > 100
    guest.remove("bomb")
    assert guest.exec("box", "echo alive") == "alive\n"


def test_a_policy_denies_and_allows(guest: Guest) -> None:
    denied = (POLICIES / "allow-all-except-exec-process.rego").read_text()
    guest.call("SetPolicy", agent_pb2.SetPolicyRequest(policy=denied))
    with pytest.raises(RpcError, match="ExecProcessRequest is blocked by policy") as caught:
        guest.exec("box", "true")
    assert caught.value.code == Code.PERMISSION_DENIED
    allowed = (POLICIES / "allow-all.rego").read_text()
    guest.call("SetPolicy", agent_pb2.SetPolicyRequest(policy=allowed))
    assert guest.exec("box", "echo allowed") == "allowed\n"


def test_cgroup_v1_when_it_is_asked_for(tmp_path: Path, debug_image: Path) -> None:
    with boot(tmp_path, debug_image, "systemd.unified_cgroup_hierarchy=0") as guest:
        guest.run(guest.request("box", "sleep", "100000", pids={"limit": 50}))
        assert guest.shell.ask("cat /sys/fs/cgroup/pids/box/pids.max").strip() == "50"
        stats = guest.call("StatsContainer", agent_pb2.StatsContainerRequest(container_id="box")).cgroup_stats  # type: ignore[attr-defined]
        assert (stats.pids_stats.current, stats.pids_stats.limit) == (1, 50)
        assert stats.cpu_stats.cpu_usage.total_usage > 0
        guest.call("PauseContainer", agent_pb2.PauseContainerRequest(container_id="box"))
        assert guest.shell.ask("cat /sys/fs/cgroup/freezer/box/freezer.state").strip() == "FROZEN"
        guest.call("ResumeContainer", agent_pb2.ResumeContainerRequest(container_id="box"))
        major, minor = guest.shell.ask("cat /sys/class/block/vda/dev").strip().split(":")
        said = guest.exec(
            "box", f"mknod /dev/disk b {major} {minor}; head -c 1 /dev/disk; echo > /dev/null && echo fine"
        )
        assert "Operation not permitted" in said and "fine" in said
        guest.kill("box")
        assert guest.wait("box") == 137
        guest.remove("box")
        assert guest.shell.ask("ls -d /sys/fs/cgroup/*/box 2>/dev/null").strip() == ""
        with_memory = "memory" in guest.shell.ask("ls /sys/fs/cgroup").split()
        limited = guest.request("limited", "true", memory={"limit": 64 * MIB})
        if with_memory:
            guest.run(limited)
            assert guest.shell.ask("cat /sys/fs/cgroup/memory/limited/memory.limit_in_bytes").strip() == str(64 * MIB)
        else:  # Debian's kernel
            with pytest.raises(RpcError, match="no controller memory for cgroup v1") as caught:
                guest.run(limited)
            assert caught.value.code == Code.UNIMPLEMENTED


def test_a_configuration_file_is_parsed_in_the_guest(tmp_path: Path) -> None:
    spec = make_spec(
        tmp_path / "vm", (), paths.assets_dir() / "kata-containers.img", "agent.config_file=/etc/os-release"
    )
    with QemuMachine(spec) as machine:
        machine.boot()
        assert machine.wait(110.0) == 0
        said = machine.console_tail(100)
    # os-release is no TOML: the agent's parser says so, and where, and the guest powers itself off.
    assert "the configuration file /etc/os-release cannot be read: Invalid value (at line 2" in said


def test_without_a_port_the_debug_console_is_the_serial_one(tmp_path: Path, debug_image: Path) -> None:
    spec = msgspec.structs.replace(
        make_spec(tmp_path / "vm", (), debug_image, "agent.debug_console"), debug_console=False, agent_log=False
    )
    with QemuMachine(spec) as machine:
        machine.boot()
        connect_agent(lambda: dial(machine.agent_address(), 60.0), 120.0).close()
        deadline = time.monotonic() + 60.0
        while "/ # " not in machine.console_tail(5) + " ":
            assert time.monotonic() < deadline, machine.console_tail()
            time.sleep(0.2)
        assert "terminal=/dev/ttyS0" in machine.console_tail(20)

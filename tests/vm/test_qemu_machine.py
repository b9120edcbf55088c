"""One QEMU from boot to close, with a real guest kernel: what is promised in `kata.hypervisor.machine`."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kata import paths
from kata.hypervisor.errors import HypervisorError, SpecError, StartError
from kata.hypervisor.machine import Disk, MachineSpec, PublishedPort, UserNetwork
from kata.hypervisor.qemu.machine import QemuMachine, State

pytestmark = [pytest.mark.vm, pytest.mark.root]

UID = 1_879_048_192


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path) -> Iterator[None]:
    """Every test ends with the descriptors, threads, children and files it began with."""
    (tmp_path / "vm").mkdir(mode=0o700)
    before = (sorted(os.listdir("/proc/self/fd")), threading.active_count(), _children())
    yield
    assert (sorted(os.listdir("/proc/self/fd")), threading.active_count(), _children()) == before
    assert list((tmp_path / "vm").iterdir()) == []


@pytest.fixture
def spec(tmp_path: Path) -> MachineSpec:
    return make(tmp_path)


def make(tmp_path: Path, **changes: Any) -> MachineSpec:
    values: dict[str, Any] = {
        "sandbox_id": "test",
        "directory": str(tmp_path / "vm"),
        "kernel": str(paths.assets_dir() / "vmlinuz"),
        "initrd": None,
        "image": None,
        "accelerator": "tcg",
    }
    return MachineSpec(**{**values, **changes})


@pytest.mark.parametrize("machine_type", ["q35", "microvm"])
def test_a_kernel_alone_panics_and_is_heard(tmp_path: Path, machine_type: str) -> None:
    with QemuMachine(make(tmp_path, machine_type=machine_type)) as machine:
        machine.boot()
        assert machine.state.name == "RUNNING"
        assert machine.wait(0) is None
        assert machine.wait(60) == 0
        assert machine.state.name == "STOPPED"
        assert "Unable to mount root fs" in machine.console_tail(60)


def test_runs_as_its_own_user_without_any_privilege(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(1 << 20))
    disk.chmod(0o600)  # QEMU's user could not open it: it gets a descriptor
    port = _free_port()
    spec = make(
        tmp_path,
        uid=UID,
        gid=UID,
        disks=(Disk(str(disk), "data", readonly=False),),
        network=UserNetwork("02:00:00:00:00:01", (PublishedPort(port, 80),)),
    )
    with QemuMachine(spec) as machine:
        machine.boot()
        status = _status(machine.pid)
        assert status["Uid"].split() == [str(UID)] * 4
        assert status["Gid"].split() == [str(UID)] * 4
        assert status["Groups"].split() == []
        assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
        with socket.socket(socket.AF_UNIX) as agent:
            agent.connect(machine.agent_address().removeprefix("unix://"))
        assert machine.disk_address("data") == ("blk", "04")


def test_a_read_only_disk_is_read_only_in_the_kernel(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(1 << 20))
    with QemuMachine(make(tmp_path, disks=(Disk(str(disk), "data"),))) as machine:
        machine.boot()
        modes = [
            int(info.read_text().split("flags:")[1].split()[0], 8) & os.O_ACCMODE
            for info in Path(f"/proc/{machine.pid}/fdinfo").iterdir()
            if os.readlink(f"/proc/{machine.pid}/fd/{info.name}") == str(disk)
        ]
        assert modes
        assert set(modes) == {os.O_RDONLY}


def test_a_low_port_keeps_one_capability(tmp_path: Path) -> None:
    ports = (PublishedPort(_free_port(500, 1000), 80),)
    with QemuMachine(make(tmp_path, uid=UID, gid=UID, network=UserNetwork("02:00:00:00:00:01", ports))) as machine:
        machine.boot()
        assert int(_status(machine.pid)["CapEff"], 16) == 1 << 10  # CAP_NET_BIND_SERVICE


def test_qemu_that_cannot_start_says_why(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = (PublishedPort(taken.getsockname()[1], 80),)
        machine = QemuMachine(make(tmp_path, network=UserNetwork("02:00:00:00:00:01", ports)))
        with pytest.raises(StartError, match="Could not set up host forwarding rule") as caught:
            machine.boot()
    assert "exit code 1" in caught.value.what
    assert machine.pid != 0
    assert machine.state is State.CLOSED


def test_a_bad_disk_is_named(tmp_path: Path) -> None:
    with pytest.raises(HypervisorError, match="/nonexistent/disk cannot be opened"):
        QemuMachine(make(tmp_path, disks=(Disk("/nonexistent/disk", "d"),))).boot()
    with pytest.raises(StartError) as caught:
        QemuMachine(make(tmp_path, disks=(Disk("/dev/null", "d"),))).boot()
    error = caught.value
    assert "disk0" in error.what
    assert error.what.rpartition(": ")[2] not in error.detail, "each line once"


def test_a_kernel_that_qemus_user_cannot_read(tmp_path: Path) -> None:
    kernel = tmp_path / "kernel"
    kernel.write_bytes(b"x")
    kernel.chmod(0o600)
    with pytest.raises(SpecError, match="closed to others"):
        QemuMachine(make(tmp_path, kernel=str(kernel), uid=UID, gid=UID)).boot()


def test_a_killed_qemu_is_noticed_by_all_who_wait(spec: MachineSpec) -> None:
    with QemuMachine(spec) as machine:
        machine.boot()
        seen: list[int | None] = []
        threads = [threading.Thread(target=lambda: seen.append(machine.wait(30))) for _ in range(4)]
        for thread in threads:
            thread.start()
        os.kill(machine.pid, signal.SIGKILL)
        for thread in threads:
            thread.join(10)
        assert seen == [-signal.SIGKILL] * 4


@pytest.mark.parametrize("condition", ["running", "paused", "frozen"])
def test_stop(spec: MachineSpec, condition: str) -> None:
    with QemuMachine(spec) as machine:
        machine.boot()
        if condition == "paused":
            machine.qmp.execute("stop")
        if condition == "frozen":  # the process itself: it answers neither QMP nor SIGTERM
            os.kill(machine.pid, signal.SIGSTOP)
        start = time.monotonic()
        machine.stop(timeout=2)
        assert time.monotonic() - start < 6
        assert machine.wait(0) == (-signal.SIGKILL if condition == "frozen" else 0)
        machine.stop()
        assert not Path(f"/proc/{machine.pid}").exists()


def test_qemu_dies_with_its_owner(spec: MachineSpec) -> None:
    """The owner is a forked child that boots the machine and is then killed: QEMU must not outlive it."""
    read_end, write_end = os.pipe()
    owner = os.fork()
    if owner == 0:
        try:
            machine = QemuMachine(spec)
            machine.boot()
            os.write(write_end, str(machine.pid).encode())
            signal.pause()
        finally:
            os._exit(1)
    pidfd = -1
    try:
        pidfd = os.pidfd_open(int(os.read(read_end, 32)))
        os.kill(owner, signal.SIGKILL)
        os.waitpid(owner, 0)
        import select

        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        assert poll.poll(10_000), "QEMU outlived its owner"
    finally:
        for fd in (read_end, write_end, pidfd):
            os.close(fd)
        for path in Path(spec.directory).iterdir():
            path.unlink()


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _free_port(first: int = 0, last: int = 0) -> int:
    for port in range(first, last + 1):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise AssertionError("no free port")


def _children() -> set[int]:
    """Our child processes, zombies too. (Another test of this run may own one that stays, so they are compared.)

    Those that we started lead a process group; what they left behind, and came to us as an orphan, does not.
    """
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                _, parent, group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
            except OSError:
                continue
            if int(parent) == os.getpid() and group == entry.name:
                found.add(int(entry.name))
    return found

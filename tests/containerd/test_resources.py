"""A machine follows the limits of its containers, its host cgroups hold it, and memory that it frees goes back."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.containerd.conftest import left_behind
from tests.helpers import hostcgroups
from tests.helpers.cli import vmm_pids
from tests.helpers.containerd import Containerd

pytestmark = [pytest.mark.containerd, pytest.mark.root]

MIB = 1 << 20
BOX, EATER = f"box{os.getpid()}", f"eater{os.getpid()}"
"""Cgroups are the host's, and others may run these tests on it."""
CGROUP = ("--mount", "type=cgroup,src=cgroup,dst=/sys/fs/cgroup,options=ro")
"""containerd 1.6 gives containers no such mount on a host with cgroup v1."""
LIMITS = (*CGROUP, "--memory-limit", str(64 * MIB), "--cpus", "0.5")
PATIENCE = 60.0


def test_freed_memory_goes_back_to_the_host(containerd: Containerd) -> None:
    containerd.run(EATER, "sleep", "1000")
    (vmm,) = vmm_pids()
    low = resident(vmm)
    eat = "dd if=/dev/zero bs=300M count=1 | { dd of=/dev/null bs=1 count=1; sleep 3; }"  # it holds it meanwhile
    words = ("task", "exec", "--exec-id", "e1", EATER, "sh", "-c", eat)
    with containerd.popen(*words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        await_true(lambda: resident(vmm) > low + 290, f"290 MiB more than {low} are in use")
        high = resident(vmm)
    await_true(lambda: resident(vmm) < high - 150, f"of {high} MiB 150 have gone back")
    containerd.remove(EATER)


@pytest.fixture(scope="module")
def box(daemon: Containerd) -> Iterator[Containerd]:
    """A containerd with a running container, `BOX`, of 64 MiB and half a CPU, until the last test kills it."""
    daemon.run(BOX, "sleep", "1000", options=LIMITS)
    yield daemon
    daemon.remove(BOX)
    await_true(lambda: left_behind(daemon) + hostcgroups.of_sandboxes(BOX) == [], "nothing is left")


def test_the_host_holds_the_machine(box: Containerd) -> None:
    (vmm,) = vmm_pids()
    (shim,) = box.shims()
    overhead = hostcgroups.of_controller("memory", f"/kata_overhead/{BOX}")
    assert {vmm, shim} <= set(hostcgroups.processes(overhead))
    ours = hostcgroups.of_controller("cpu", f"/default/kata_{BOX}")
    names = {Path(f"/proc/{vmm}/task/{tid}/comm").read_text().strip() for tid in hostcgroups.threads(ours)}
    # Under TCG one thread runs all of the guest's CPUs, and is called so.
    assert names and all(name.startswith(("CPU ", "ALL CPUs")) for name in names)
    assert (ours / "cpu.cfs_quota_us").read_text().strip() == "150000", "half a CPU, and the sandbox's own"
    memory = hostcgroups.of_controller("memory", f"/default/kata_{BOX}")
    assert (memory / "memory.limit_in_bytes").read_text().strip() == str(64 * MIB)
    devices = hostcgroups.of_controller("devices", f"/default/kata_{BOX}")
    assert "a *:* rwm" not in (devices / "devices.list").read_text()

    box.update(BOX, cpu={"quota": 30000, "period": 100000})
    assert (ours / "cpu.cfs_quota_us").read_text().strip() == "130000"


def test_grow_and_shrink(box: Containerd) -> None:
    before = meminfo(box)["MemTotal"]
    box.update(BOX, memory={"limit": 700 * MIB}, cpu={"quota": 150000, "period": 100000})
    await_true(lambda: meminfo(box)["MemTotal"] > before + 600, "memory has come")
    assert limits(box) == ["734003200", "150000", "100000"]
    grown = meminfo(box)

    box.update(BOX, memory={"limit": 32 * MIB})
    await_true(lambda: meminfo(box)["MemFree"] < grown["MemFree"] - 500, "the balloon has taken memory")
    assert limits(box) == ["33554432", "150000", "100000"]
    box.update(BOX, memory={"limit": 600 * MIB})
    await_true(lambda: meminfo(box)["MemFree"] > grown["MemFree"] - 200, "the balloon has given memory back")
    assert meminfo(box)["MemTotal"] == grown["MemTotal"], "what was plugged in is there still"


def test_nothing_is_left_when_the_shim_is_killed(box: Containerd) -> None:
    (shim,) = box.shims()
    assert hostcgroups.of_sandboxes(BOX) != []
    os.kill(shim, signal.SIGKILL)
    await_true(lambda: hostcgroups.of_sandboxes(BOX) == [], "containerd had it cleared up")


# Section: what the tests look at


def meminfo(daemon: Containerd) -> dict[str, int]:
    """The guest's memory, in MiB."""
    said = daemon.exec(BOX, f"m{time.monotonic_ns()}", "cat", "/proc/meminfo").stdout.decode()
    rows = (line.split() for line in said.splitlines())
    return {row[0].rstrip(":"): int(row[1]) >> 10 for row in rows}


def limits(daemon: Containerd) -> list[str]:
    """The container's own limits, in its guest."""
    files = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/cpu.max")
    done = daemon.exec(BOX, f"l{time.monotonic_ns()}", "cat", *files)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode().split()


def resident(pid: int) -> int:
    """MiB of the host's memory that a process has, the guest's included."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) >> 10 for line in status.splitlines() if line.startswith("VmRSS"))


def await_true(holds: Callable[[], bool], what: str) -> None:
    """Ask until it is so."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, f"not within {PATIENCE:.0f} s: {what}"
        time.sleep(0.5)

"""Scopes of a real systemd: who is in them, what holds there, and what is left, in each of its layouts of cgroups."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import systemd
from tests.helpers.systemd import Systemd

pytestmark = pytest.mark.root

ROOT = Path(__file__).parents[2]

SANDBOX = """
    import json, os, subprocess, sys, threading
    from kata.cgroups.limits import Limits, Rule
    from kata.cgroups.path import placement
    from kata.cgroups.sandbox import SandboxGroups
    from kata.cgroups.systemd import Host

    name, together, bus = sys.argv[1], sys.argv[2] == "together", sys.argv[3]
    place = placement(f"kpods-{name}.slice:cri:{name}", name, together=together)
    warnings = []
    groups = SandboxGroups(place, f"/run/{name}", warnings.append, systemd=Host(bus=bus))
    before = open("/proc/self/cgroup").read()
    groups.enter([Rule("c", 1, 11)])
    sleep = lambda: subprocess.Popen(["sleep", "1000"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    vmm, other = sleep(), sleep()
    thread = threading.Thread(target=lambda: sys.stdin.readline(), daemon=True)
    thread.start()
    groups.settle([thread.native_id], [other.pid])
    groups.limit(Limits(0.5, 64 << 20))
    groups.allow([Rule("c", 10, 1)])
    groups.settle([], [other.pid])
    tell = lambda **values: print(json.dumps(values), flush=True)
    tell(me=os.getpid(), vmm=vmm.pid, other=other.pid, thread=thread.native_id)
    thread.join()
    for child in (vmm, other):
        child.kill()
        child.wait()
    groups.leave()
    after = open("/proc/self/cgroup").read()
    tell(warnings=warnings, same=before == after, loaded="jeepney" in sys.modules)
"""
CLEAR = """
    import json, sys
    from kata.cgroups.path import placement
    from kata.cgroups.sandbox import clear
    name = sys.argv[1]
    clear(placement(f"kpods-{name}.slice:cri:{name}", name, together=sys.argv[2] == "together"), f"/run/{name}")
"""
SWEEP = """
    from kata.cgroups.sweep import marked, remove_empty
    for entry in marked():
        assert remove_empty(entry)
"""


@pytest.fixture(scope="module", params=systemd.LAYOUTS)
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Systemd]:
    """A systemd in one of its layouts."""
    with systemd.running(request.param, tmp_path_factory.mktemp("units")) as made:
        yield made


@pytest.fixture
def run(host: Systemd, name: str) -> Iterator[Callable[..., Running]]:
    """Start one for that name."""
    made: list[Running] = []

    def start(*words: str) -> Running:
        made.append(Running(host, name, *words))
        return made[-1]

    yield start
    for one in made:
        one.end()


@pytest.fixture
def name() -> str:
    """A sandbox's id."""
    return f"kt{uuid.uuid4().hex[:8]}"


def python_words(program: str, *words: str) -> list[str]:
    """The command for a program of ours."""
    return ["env", f"PYTHONPATH={ROOT / 'src'}", sys.executable, "-c", textwrap.dedent(program), *words]


class Running:
    """A process that stands for a sandbox's, with children for its VMM and daemon, and a thread for a guest's CPU."""

    def __init__(self, host: Systemd, name: str, place: str, bus: str = "/run/dbus/system_bus_socket") -> None:
        words = host.words(*python_words(SANDBOX, name, place, bus))
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ids = self._read()

    def finish(self) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        said = self._read()
        self.process.communicate(timeout=60)
        assert self.process.returncode == 0
        return said

    def end(self) -> None:
        """Whatever has happened."""
        self.process.kill()
        self.process.communicate()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        return found


def paths(host: Systemd, pid: int) -> dict[str, str]:
    """The cgroup of a process by controller; "" is v2's."""
    lines = host.run("cat", f"/proc/{pid}/cgroup").splitlines()
    return {line.split(":")[1]: line.split(":")[2] for line in lines}


def read(host: Systemd, path: str) -> list[str]:
    """The words of a file of cgroups."""
    return host.run("cat", f"/sys/fs/cgroup/{path}").split()


NO = "Operation not permitted"


def opened(host: Systemd, path: str, numbers: str) -> str:
    """What a process in a cgroup finds when it opens a character device."""
    tree = "" if host.layout == "unified" else "devices"
    join = f"echo 0 > /sys/fs/cgroup/{tree}{path}/cgroup.procs"
    return host.run("sh", "-c", f"{join} && mknod /run/n c {numbers} && (: < /run/n && echo yes) 2>&1; rm -f /run/n")


def assert_apart(host: Systemd, running: Running, sandbox: str, overhead: str) -> None:
    """Everybody is where he belongs, and bounded there."""
    own = "name=systemd" if host.layout == "legacy" else ""
    ids, vmm = running.ids, paths(host, running.ids["vmm"])
    assert vmm[own] == sandbox
    assert paths(host, ids["me"])[own] == paths(host, ids["other"])[own] == overhead
    assert NO not in opened(host, "", "10 183") and "yes" in opened(host, sandbox, "1 3")
    assert NO in opened(host, sandbox, "10 183")
    if host.layout == "unified":
        return
    controllers = {"cpu", "cpuacct", "cpuset", "memory", "devices", "pids", "blkio", "freezer"}
    assert {vmm[name] for name in controllers} == {overhead}
    assert {paths(host, ids["me"])[name] for name in controllers} == {overhead}
    for name in controllers:
        assert read(host, f"{name}{sandbox}/tasks") == [str(ids["thread"])]
    assert read(host, f"cpu{sandbox}/cpu.cfs_quota_us") == ["50000"]
    assert read(host, f"memory{sandbox}/memory.limit_in_bytes") == [str(64 << 20)]
    devices = host.run("cat", f"/sys/fs/cgroup/devices{sandbox}/devices.list").splitlines()
    assert {"c 1:3 rwm", "c 1:11 rwm", "c 10:1 rwm", "c 136:* rwm", "b *:* rwm", "c *:* m"} <= set(devices)
    assert "a *:* rwm" not in devices


def slices(host: Systemd, name: str) -> set[str]:
    """What may be left in the trees: the engine's slice, which systemd keeps."""
    return {path.rpartition("/")[2] for path in host.cgroups(name)}


@pytest.mark.parametrize("bus", ["/run/dbus/system_bus_socket", "/nowhere"], ids=["bus", "private"])
def test_apart_and_away_again(host: Systemd, name: str, run: Callable[..., Running], bus: str) -> None:
    running = run("apart", bus)
    unit, apart = f"cri-{name}.scope", f"kata_overhead-{name}.scope"
    sandbox, overhead = f"/kpods.slice/kpods-{name}.slice/{unit}", f"/kata_overhead.slice/{apart}"
    for _ in range(2):
        for scope, path in ((unit, sandbox), (apart, overhead)):
            assert host.property(scope, "ActiveState") == "active"
            assert (host.property(scope, "ControlGroup"), host.property(scope, "Delegate")) == (path, "yes")
        assert host.property(unit, "Description") == f"Kata Containers sandbox {name}"
        if host.layout != "unified":  # no controller of v2 is to be had where v1 has them all
            assert host.property(unit, "CPUQuotaPerSecUSec") == "500ms"
        assert_apart(host, running, sandbox, overhead)
        host.run("systemctl", "daemon-reload")  # systemd applies what it knows, once more
    assert running.finish() == {"warnings": [], "same": True, "loaded": True}
    assert slices(host, name) <= {f"kpods-{name}.slice"}
    assert host.property(unit, "LoadState") == host.property(apart, "LoadState") == "not-found"


def test_together(host: Systemd, name: str, run: Callable[..., Running]) -> None:
    running = run("together")
    sandbox = f"/kpods.slice/kpods-{name}.slice/cri-{name}.scope"
    naming = "name=systemd" if host.layout == "legacy" else ""
    for process in ("me", "vmm", "other"):
        found = paths(host, running.ids[process])
        assert found[naming] == sandbox
        if host.layout != "unified":
            assert found["cpu"] == found["memory"] == found["freezer"] == sandbox
    assert host.property(f"kata_overhead-{name}.scope", "LoadState") == "not-found"
    assert running.finish() == {"warnings": [], "same": True, "loaded": True}
    assert slices(host, name) <= {f"kpods-{name}.slice"}


@pytest.mark.parametrize("place", ["apart", "together"])
def test_killed_and_cleared(host: Systemd, name: str, run: Callable[..., Running], place: str) -> None:
    """The shim is gone with its VMM, a process has strayed into the scope: that is moved out, never killed."""
    running = run(place)
    host.run("kill", "-9", str(running.ids["me"]), str(running.ids["vmm"]))
    running.process.communicate()
    host.run(*python_words(CLEAR, name, place))
    host.run("kill", "-0", str(running.ids["other"]))
    assert slices(host, name) <= {f"kpods-{name}.slice"}
    assert host.property(f"cri-{name}.scope", "LoadState") == "not-found"
    again = run(place)
    assert host.property(f"cri-{name}.scope", "ActiveState") == "active", "the name is free again"
    host.run("kill", "-9", str(running.ids["other"]))
    assert again.finish()["warnings"] == []


def test_all_killed_and_swept(host: Systemd, name: str, run: Callable[..., Running]) -> None:
    """Nobody is left: systemd ends what it has made, the rest has marks. Where it does not notice, the name is free."""
    running = run("apart")
    ids = [str(running.ids[process]) for process in ("me", "vmm", "other")]
    host.run("kill", "-9", *ids)
    running.process.communicate()
    host.run(*python_words(SWEEP))
    assert slices(host, name) <= {f"kpods-{name}.slice"}
    again = run("apart")
    assert host.property(f"cri-{name}.scope", "ActiveState") == "active"
    assert again.finish()["warnings"] == []


def test_a_name_of_anothers(host: Systemd, name: str, run: Callable[..., Running]) -> None:
    """It is left alone, with those who are in it; the sandbox has folders."""
    unit = f"cri-{name}.scope"
    words = host.words("systemd-run", "--quiet", "--scope", f"--unit={unit}", f"--slice=kpods-{name}.slice", "cat")
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as theirs:
        assert theirs.stdin is not None and theirs.stdout is not None
        theirs.stdin.write("in\n")
        theirs.stdin.flush()
        assert theirs.stdout.readline() == "in\n"
        running = run("apart")
        if host.layout != "unified":
            folder = f"/kpods.slice/kpods-{name}.slice/kata_{unit}"
            assert read(host, f"cpu{folder}/tasks") == [str(running.ids["thread"])]
            assert paths(host, running.ids["vmm"])["cpu"] == f"/kata_overhead/{name}"
        said = running.finish()
        assert (len(said["warnings"]), said["same"]) == (1, True)
        assert "UnitExists" in said["warnings"][0] and f"{unit} is a folder" in said["warnings"][0]
        assert host.property(unit, "ActiveState") == "active"
        theirs.stdin.close()
        assert theirs.wait(30) == 0
    assert slices(host, name) <= {f"kpods-{name}.slice", unit}

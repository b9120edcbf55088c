"""A sandbox's cgroups in the trees of this host, with processes of ours in the parts."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kata.cgroups.group import Group
from kata.cgroups.hierarchy import Hierarchy, hierarchies
from kata.cgroups.limits import Rule, device_rules
from kata.cgroups.mark import mark
from kata.cgroups.path import Placement, placement
from kata.cgroups.sandbox import clear
from kata.cgroups.sweep import marked
from kata.sandbox.reconcile import reconcile
from kata.sandbox.store import Store
from tests.helpers import hostcgroups

pytestmark = pytest.mark.root

ROOT = Path(__file__).parents[2]

SANDBOX = """
    import os, subprocess, sys, threading
    from kata.cgroups.limits import Limits, Rule
    from kata.cgroups.path import placement
    from kata.cgroups.sandbox import SandboxGroups

    name, together, leave = sys.argv[1], sys.argv[2] == "together", sys.argv[3] == "leave"
    warnings = []
    groups = SandboxGroups(placement(f"/kata-tests/{name}", name, together=together), name, warnings.append)
    before = open("/proc/self/cgroup").read()
    groups.enter([Rule("c", 1, 11)])
    child = subprocess.Popen(["sleep", "1000"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    thread = threading.Thread(target=lambda: sys.stdin.read(), daemon=True)
    thread.start()
    groups.settle([thread.native_id], [child.pid])
    groups.limit(Limits(0.5, 64 << 20))
    print(child.pid, thread.native_id, flush=True)
    thread.join()
    if leave:
        child.kill()
        child.wait()
        groups.leave()
        assert open("/proc/self/cgroup").read() == before, open("/proc/self/cgroup").read()
    print("WARNINGS", warnings, flush=True)
"""


class Running:
    """A process that stands for a sandbox's, with a child for its VMM and a thread for a CPU of the guest."""

    def __init__(self, name: str, place: str, end: str) -> None:
        words = [sys.executable, "-c", textwrap.dedent(SANDBOX), name, place, end]
        env = {**os.environ, "PYTHONPATH": os.fspath(ROOT / "src")}
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        assert self.process.stdout is not None
        self.child, self.thread = map(int, self.process.stdout.readline().split())

    def finish(self) -> str:
        said, _ = self.process.communicate("", timeout=60)
        assert self.process.returncode == 0
        return said


@pytest.fixture
def name() -> Iterator[str]:
    """A sandbox's id; whatever is left of its cgroups goes."""
    made = f"kt{uuid.uuid4().hex[:8]}"
    yield made
    for together in (True, False):
        clear(placement(f"/kata-tests/{made}", made, together=together), made)


def place_of(name: str, *, together: bool) -> Placement:
    return placement(f"/kata-tests/{name}", name, together=together)


def test_apart_and_away_again(name: str) -> None:
    running = Running(name, "apart", "leave")
    (cpu,) = [tree for tree in hierarchies() if "cpu" in tree.controllers]
    sandbox = hostcgroups.of_controller("cpu", place_of(name, together=False).sandbox)
    overhead = hostcgroups.of_controller("cpu", f"/kata_overhead/{name}")
    if cpu.version == 1:
        assert running.thread in hostcgroups.threads(sandbox)
        assert {running.process.pid, running.child} <= set(hostcgroups.processes(overhead))
        assert (sandbox / "cpu.cfs_quota_us").read_text().strip() == "50000"
        memory = hostcgroups.of_controller("memory", place_of(name, together=False).sandbox)
        assert (memory / "memory.limit_in_bytes").read_text().strip() == str(64 << 20)
        devices = hostcgroups.of_controller("devices", place_of(name, together=False).sandbox)
        assert {"c 1:3 rwm", "c 1:11 rwm"} <= set((devices / "devices.list").read_text().splitlines())
    else:
        assert running.process.pid in hostcgroups.processes(overhead)
        assert (sandbox / "cpu.max").read_text().strip() == "50000 100000"
    assert running.finish() == "WARNINGS []\n"
    assert hostcgroups.of_sandboxes(name) == []
    assert not (Path(cpu.root) / "kata-tests").exists()


def test_together_and_killed(name: str) -> None:
    running = Running(name, "together", "stay")
    sandbox = hostcgroups.of_controller("memory", place_of(name, together=True).sandbox)
    assert {running.process.pid, running.child} <= set(hostcgroups.processes(sandbox))
    assert not hostcgroups.of_controller("memory", f"/kata_overhead/{name}").exists()
    running.process.kill()
    running.process.communicate()
    try:
        clear(place_of(name, together=True), name)
        assert hostcgroups.of_sandboxes(name) == [], "what strayed into it is moved out, not killed"
        os.kill(running.child, 0)
    finally:
        os.kill(running.child, 9)


def test_a_tree_of_v2(name: str) -> None:
    """Hybrid hosts have a v2 tree with no controller of use; it takes processes all the same."""
    root = next((path for path in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup") if _is_v2(path)), None)
    if root is None:
        pytest.skip("this host has no cgroup v2 mounted")
    tree = Hierarchy(root, 2, frozenset((Path(root) / "cgroup.controllers").read_text().split()) & {"cpu", "memory"})
    warnings: list[str] = []
    group = Group(f"/kata-tests/{name}", name, [tree], warnings.append)
    group.create()
    with subprocess.Popen(["sleep", "1000"]) as child:
        try:
            group.add(child.pid)
            group.add_thread(child.pid)
            assert group.strays() == {root: [child.pid]}
        finally:
            child.kill()
            child.wait()
    group.remove()
    assert warnings == []
    assert not (Path(root) / "kata-tests").exists()


def test_what_others_made_stays(name: str) -> None:
    (cpu,) = [tree for tree in hierarchies() if "cpu" in tree.controllers]
    theirs = Path(cpu.root) / f"kata-theirs-{name}"
    theirs.mkdir()
    try:
        group = Group(f"/{theirs.name}/in", name, [cpu], pytest.fail)
        group.create()
        Group(f"/{theirs.name}/in", "another", [cpu], pytest.fail).remove()
        assert (theirs / "in").is_dir()
        group.remove()
        assert theirs.is_dir() and not (theirs / "in").exists()
    finally:
        theirs.rmdir()


def test_many_at_once_share_the_folders_above(name: str) -> None:
    warnings: list[str] = []

    def live(number: int) -> None:
        for _ in range(20):
            group = Group(f"/kata-tests/{name}-{number}", f"{name}-{number}", hierarchies(), warnings.append)
            group.create()
            group.remove()

    threads = [threading.Thread(target=live, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert warnings == []
    assert hostcgroups.of_sandboxes(name) == []


@pytest.mark.parametrize(("record", "inside"), [("gone", False), ("free", False), ("held", False), ("gone", True)])
def test_what_dead_sandboxes_left_is_swept(name: str, tmp_path: Path, record: str, *, inside: bool) -> None:
    """containerd, shim and VMM were killed at once: any later command removes what the mark and the lock permit."""
    store, place, warnings = Store(tmp_path / "state" / "sbs"), place_of(name, together=False), list[str]()
    owner = os.fspath(store.directory(name))
    groups = [Group(path, mark(owner, place), hierarchies(), warnings.append) for path in place.paths()]
    lock = -1
    if record != "gone":
        store.directory(name).mkdir(parents=True)
        lock = store.hold(name)
    if record == "free":
        os.close(lock)
    with subprocess.Popen(["sleep", "1000"]) as child:
        try:
            for group in groups:
                group.create()
            if inside:
                groups[-1].within(hierarchies()[0]).add(child.pid)
            reconcile(Store(tmp_path / "another" / "sbs"))
            left = hostcgroups.of_sandboxes(name)
            assert bool(left) is (record == "held" or inside), left
            assert bool([entry for entry in marked() if entry.place == place]) is bool(left)
        finally:
            child.kill()
            child.wait()
            if record == "held":
                os.close(lock)
            clear(place, owner)
    assert (hostcgroups.of_sandboxes(name), warnings) == ([], [])


def _is_v2(path: str) -> bool:
    return (Path(path) / "cgroup.controllers").exists()


UNIFIED = Path("/sys/fs/cgroup/unified") if Path("/sys/fs/cgroup/unified").is_dir() else Path("/sys/fs/cgroup")
READ = """
    import os, sys
    with open(sys.argv[1] + "/cgroup.procs", "w") as file:
        file.write("0")
    for line in sys.stdin:
        path, mode = line.split()
        try:
            if mode == "m":
                os.mknod(path, 0o600 | 0o020000, os.makedev(1, 3))
            else:
                os.close(os.open(path, {"r": os.O_RDONLY, "w": os.O_WRONLY, "rw": os.O_RDWR}[mode]))
            print("yes", flush=True)
        except OSError as error:
            print(error.strerror, flush=True)
"""
NO = "Operation not permitted"


@pytest.fixture
def inside() -> Iterator[tuple[Group, Callable[[str, str], str]]]:
    """A cgroup of v2, and a process in it that opens what it is told to."""
    name = f"kata-tests-{uuid.uuid4().hex[:8]}"
    warnings: list[str] = []
    tree = Hierarchy(str(UNIFIED), 2, frozenset())
    group = Group(f"/{name}", name, [tree], warnings.append)
    group.create()
    words = [sys.executable, "-c", textwrap.dedent(READ), str(UNIFIED / name)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    told, said = process.stdin, process.stdout

    def tries(path: str, mode: str) -> str:
        told.write(f"{path} {mode}\n")
        told.flush()
        return said.readline().strip()

    try:
        yield group, tries
        assert warnings == []
    finally:
        told.close()
        process.wait(10)
        said.close()
        group.remove()
        assert not (UNIFIED / name).exists()


def test_devices_of_v2(inside: tuple[Group, Callable[[str, str], str]], tmp_path: Path) -> None:
    group, tries = inside
    assert tries("/dev/kmsg", "r") == tries("/dev/full", "rw") == "yes"
    group.allow([Rule("c", 1, 3), Rule("c", 1, 5, "r")], nothing_else=True)
    assert tries("/dev/null", "rw") == tries("/dev/zero", "r") == "yes"
    assert tries("/dev/zero", "w") == tries("/dev/zero", "rw") == NO
    assert tries("/dev/kmsg", "r") == tries("/dev/full", "r") == tries("/dev/tty", "r") == NO
    assert tries(f"{tmp_path}/node", "m") == "yes"  # c 1:3 may be made as well
    group.allow([Rule("c", 1, -1)])
    assert tries("/dev/kmsg", "r") == tries("/dev/full", "rw") == tries("/dev/zero", "w") == "yes"
    assert tries("/dev/net/tun", "rw") == NO
    group.allow([Rule("a", -1, -1, "r")])
    assert tries("/dev/tty", "r") != NO and tries("/dev/net/tun", "rw") == NO
    assert os.access("/dev/kmsg", os.R_OK), "who is not in it is not restricted"


@pytest.mark.parametrize("wanted", device_rules([240]))
def test_a_program_for_each_rule_of_ours(inside: tuple[Group, Callable[[str, str], str]], wanted: Rule) -> None:
    group, tries = inside
    group.allow([wanted], nothing_else=True)
    assert (tries("/dev/zero", "r") == "yes") == (wanted[:3] == ("c", 1, 5))

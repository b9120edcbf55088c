"""`kata doctor` with what really stays of killed processes on a host: programs, mounts, networks, cgroups, devices."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kata import paths
from kata.cgroups.group import Group
from kata.cgroups.hierarchy import hierarchies
from kata.cgroups.mark import mark
from kata.cgroups.path import placement
from kata.hypervisor.processref import lives, process_ref
from kata.linux.mounts import is_mounted
from kata.sandbox.reconcile import reconcile
from kata.sandbox.store import Store
from tests.helpers.cli import kata
from tests.kernel.netns import Netns, connect, netns, run

pytestmark = pytest.mark.root

ROOT = Path(__file__).parents[2]
ID = "c" * 32


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KATA_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("KATA_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "state"


def doctor(*options: str) -> list[tuple[str, str, str]]:
    """State, kind and subject of each finding, but for networks: others on this host may have some of their own."""
    done = kata("doctor", "--json", *options)
    document: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (0 if document["clean"] else 1)
    found = document["findings"]
    return [(entry["state"], entry["kind"], entry["subject"]) for entry in found if entry["kind"] != "network"]


def networks(pod: Netns, *options: str) -> list[tuple[str, str]]:
    """What it says about one network namespace."""
    found = json.loads(kata("doctor", "--json", *options).stdout)["findings"]
    ours = [entry for entry in found if entry["kind"] == "network" and entry["subject"] == pod.path]
    return [(entry["state"], entry["found"]) for entry in ours]


@contextmanager
def python(program: str, *words: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A process of ours at work, and the line that it says once it is ready; killed at the end."""
    code = (
        f"import sys\nsys.path[:0] = {[str(ROOT / 'src'), str(ROOT)]!r}\n{textwrap.dedent(program)}\nsys.stdin.read()"
    )
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code, *words], **pipes) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline().decode().strip()
            assert line
            yield process, line
        finally:
            process.kill()


HELPER = """
    from kata.linux.process import spawn
    print(spawn(["sleep", "1000"]).pid, flush=True)
"""


def test_a_program_goes_when_whoever_started_it_is_gone() -> None:
    with python(HELPER) as (owner, line):
        reference = process_ref(int(line))
        assert reference is not None
        assert doctor("--fix") == []
        owner.kill()
        owner.wait()
        assert doctor() == [("left", "process", line)]
        assert lives(reference)
        assert doctor("--fix") == [("repaired", "process", line)]
        assert not lives(reference)
    assert doctor() == []


def test_programs_of_another_state_directory_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with python(HELPER) as (owner, line):
        reference = process_ref(int(line))
        assert reference is not None
        owner.kill()
        owner.wait()
        monkeypatch.setenv("KATA_STATE_DIR", str(tmp_path / "other"))
        assert doctor("--fix") == []
        assert lives(reference)
        os.kill(reference.pid, signal.SIGKILL)


DEAD = """
    import os
    from kata import paths
    from kata.hypervisor.identity import claim_identity
    from kata.sandbox.store import Store
    from tests.unit.sandbox.records import record
    store = Store()
    store.claim(store.create(record(sys.argv[1])))
    folder = paths.vm_dir() / sys.argv[1] / "shared"
    folder.mkdir(parents=True)
    claim_identity(os.fspath(folder.parent))
    print("ready", flush=True)
"""


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """A file that somebody needs, in a folder that is mounted in a dead sandbox's, on the same file system."""
    folder = tmp_path / "volume"
    folder.mkdir()
    (folder / "precious").write_text("data")
    with python(DEAD, ID) as (process, _):
        process.kill()
    target = paths.vm_dir() / ID / "shared"
    run("mount", "--bind", str(folder), str(target))
    yield folder / "precious"
    run("umount", str(target), check=False)


def test_a_mount_in_a_dead_sandboxs_folder(volume: Path) -> None:
    target = str(paths.vm_dir() / ID / "shared")
    assert ("left", "mount", target) in doctor()
    assert is_mounted(target)
    assert doctor("--fix") == [("repaired", "mount", target), ("repaired", "sandbox", ID)]
    assert not (paths.vm_dir() / ID).exists()
    assert volume.read_text() == "data"
    assert doctor() == []


def test_no_command_removes_what_is_behind_a_mount(volume: Path) -> None:
    assert reconcile(Store()) == [ID]
    assert volume.read_text() == "data"
    assert not (paths.vm_dir() / ID).exists()


def test_a_mount_in_a_living_sandboxs_folder_stays(tmp_path: Path) -> None:
    with python(DEAD, ID):
        target = paths.vm_dir() / ID / "shared"
        run("mount", "-t", "tmpfs", "kata-test", str(target))
        try:
            assert doctor("--fix") == []
            assert is_mounted(str(target))
        finally:
            run("umount", str(target))


def test_a_sandbox_that_lost_its_folder_but_lives(tmp_path: Path) -> None:
    with python(DEAD, ID) as (process, _):
        run("rm", "-r", str(Store().directory(ID)))
        assert doctor("--fix") == [("wrong", "machine", ID)]
        assert f"kill {process.pid} ends it" in kata("doctor").stdout.decode()
        assert (paths.vm_dir() / ID).is_dir()
        process.kill()
        process.wait()
        assert doctor("--fix") == [("repaired", "machine", ID)]
    assert list(paths.vm_dir().iterdir()) == []


RUNNING = f"""{DEAD}
    made = record(sys.argv[1])
    made.status = "running"
    store.write(made)
"""


def test_a_sandbox_whose_process_is_stopped() -> None:
    with python(RUNNING, ID) as (process, _):
        until(lambda: Store().read(ID).status == "running")
        assert doctor() == []
        process.send_signal(signal.SIGSTOP)
        until(lambda: Path(f"/proc/{process.pid}/stat").read_text().split()[2] == "T")
        assert doctor("--fix") == [("wrong", "sandbox", ID)]
        assert f"kill -CONT {process.pid} lets it go on" in kata("doctor").stdout.decode()
        process.send_signal(signal.SIGCONT)
        assert doctor() == []


def until(condition: Any) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_cgroups_of_a_sandbox_without_a_record() -> None:
    name = f"kata-test-{uuid.uuid4().hex[:8]}"
    place = placement(f"/kata-tests/{name}", name, together=False)
    warnings: list[str] = []
    groups = [
        Group(path, mark(os.fspath(Store().directory(ID)), place), hierarchies(), warnings.append)
        for path in (place.overhead, place.sandbox)
    ]
    Store().root.mkdir(parents=True)
    with subprocess.Popen(["sleep", "1000"]) as stray:
        try:
            for group in groups:
                group.create()
                group.add(stray.pid)  # or any other kata on this host would clear them up for us
            assert warnings == []
            assert doctor() == [("left", "cgroup", place.sandbox)]
            assert doctor("--fix") == [("failed", "cgroup", place.sandbox)]
        finally:
            stray.kill()
    assert doctor("--fix") in ([("repaired", "cgroup", place.sandbox)], [])
    assert not any(group.is_marked() for group in groups)


def test_cgroups_of_a_living_sandbox_stay() -> None:
    name = f"kata-test-{uuid.uuid4().hex[:8]}"
    place = placement(f"/kata-tests/{name}", name, together=False)
    with python(DEAD, ID):
        groups = [
            Group(path, mark(os.fspath(Store().directory(ID)), place), hierarchies(), pytest.fail)
            for path in (place.overhead, place.sandbox)
        ]
        for group in groups:
            group.create()
        assert doctor("--fix") == []
        assert all(group.is_marked() for group in groups)
        for group in groups:
            group.remove()


ATTACHED = """
    from kata.network.attachment import Settings, attach
    from kata.network.scan import scan
    [endpoint] = [found for found in scan(sys.argv[1]) if found.name == "eth0"]
    joined = attach(sys.argv[1], endpoint, Settings(model=sys.argv[2], rx_rate=1_000_000, tx_rate=1_000_000))
    print("ready", flush=True)
"""


@pytest.fixture
def pod() -> Iterator[Netns]:
    with netns("out") as outside, netns("pod") as made:
        connect(outside, made)
        yield made


@pytest.mark.parametrize("model", ["tcfilter", "macvtap"])
def test_what_a_killed_runtime_left_in_a_network(pod: Netns, model: str) -> None:
    before = pod.state()
    with python(ATTACHED, pod.path, model) as (process, _):
        during = pod.state()
        assert networks(pod, "--fix") == [], "somebody has the tap, though no sandbox is known"
        assert pod.state() == during
        process.kill()
        process.wait()
        left = pod.state()
        assert left != before
        [(state, found)] = networks(pod)
        assert state == "left" and " has " in found
        assert pod.state() == left
        assert [state for state, _ in networks(pod, "--fix")] == ["repaired"]
    assert pod.state() == before
    assert networks(pod) == []


def test_a_tap_that_stays_without_anybody_and_one_that_is_no_tap_of_ours(pod: Netns) -> None:
    pod.ip("tuntap add dev tap7_kata mode tap")
    pod.ip("tuntap add dev theirs mode tap")
    assert networks(pod, "--fix") == [
        ("repaired", f"the network namespace {pod.path} has the tap tap7_kata, and no sandbox")
    ]
    assert sorted(link["ifname"] for link in pod.json("link")) == ["eth0", "lo", "theirs"]


def test_a_loop_device_on_a_file_of_ours(tmp_path: Path) -> None:
    image = paths.data_dir() / "images/x.img"
    image.parent.mkdir(parents=True)
    image.write_bytes(bytes(1 << 20))
    device = run("losetup", "--find", "--show", str(image)).strip()
    try:
        assert doctor() == [], "an operator may look at an image"
        image.unlink()
        assert doctor("--fix") == [("wrong", "loop device", device)]
    finally:
        run("losetup", "-d", device)

"""Sandboxes that go on from a template: made once, never changed; clones that differ; a template that is broken."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kata import paths
from kata.factory.memory import ALL_SEALS, F_GET_SEALS
from tests.helpers.cli import kata, leftovers, start, vmm_pids
from tests.helpers.guestmemory import guest_memory

pytestmark = [pytest.mark.vm, pytest.mark.root, pytest.mark.timeout(400)]

SIZE = "200m"
"""Of no other test, so that the template is ours."""
RUN = ("run", "--rm", "-m", SIZE)
CLONES = 20
TELL = """
echo $(cat /proc/sys/kernel/random/boot_id) $(cat /proc/sys/kernel/random/uuid) \
$(head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \\n') $(cat /sys/class/net/eth0/address) $(hostname) $(date +%s)
"""


def templates() -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads(kata("template", "ls", "--json", check=True).stdout)
    return [entry for entry in entries if entry["memory_mib"] == 200]


def folder() -> Path:
    [entry] = templates()
    return paths.templates_dir() / str(entry["name"])


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    yield
    for entry in templates():
        kata("template", "rm", entry["name"])
    assert leftovers() == []
    assert [path.name for path in paths.templates_dir().iterdir() if path.suffix in (".new", ".gone")] == []


@pytest.fixture
def template() -> Path:
    name = kata("template", "create", "-m", SIZE, check=True).stdout.decode().strip()
    return paths.templates_dir() / name


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_clones_differ_and_leave_the_template_as_it_was(template: Path) -> None:
    before = digest(template / "memory"), digest(template / "state")
    with ThreadPoolExecutor(2) as pool:
        begun = time.time()
        done = list(pool.map(lambda _: kata(*RUN, "busybox", "sh", "-c", TELL, check=True), range(CLONES)))
    rows = [run.stdout.decode().split() for run in done]
    assert [len(row) for row in rows] == [6] * CLONES
    for position, what in enumerate(("boot id", "UUID", "random bytes", "MAC address", "host name")):
        assert len({row[position] for row in rows}) == CLONES, what
    assert all(begun - 2 <= int(row[5]) <= time.time() + 2 for row in rows), "the clocks are right"
    assert (digest(template / "memory"), digest(template / "state")) == before
    [entry] = templates()
    assert entry["in_use"] == 0


def test_the_memory_is_shared_and_sealed(template: Path) -> None:
    words = ("run", "--rm", "-i", "-m", SIZE, "busybox", "cat")
    with held(words, words) as sandboxes:
        for sandbox in sandboxes:
            assert ask(sandbox, "up") == "up"
        require_shared(template.name)


NINEP_SCRIPT = """
    read -r own
    cat /data/own; ls /data | tr '\\n' ' '; echo
    stat -c '%u:%g %a' /data/own
    echo "made by $own" >/data/made; chown 1234:5678 /data/made; chmod 640 /data/made; stat -c '%u:%g %a' /data/made
    read -r other; grep -c "$other" /proc/mounts /data/*
    cat >/dev/null
"""


def test_two_that_share_by_9p_have_one_memory_and_each_its_own_files(tmp_path: Path) -> None:
    made = kata("template", "create", "-m", SIZE, "--shared-fs", "virtio-9p", check=True).stdout.decode().strip()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "own").write_text(f"of {name}\n")
        (tmp_path / name / "own").chmod(0o600)
        os.chown(tmp_path / name / "own", 4321, 8765)
    words = ("run", "--rm", "-i", "-m", SIZE, "--shared-fs", "virtio-9p")
    script = ("busybox", "sh", "-c", NINEP_SCRIPT)
    with held(*((*words, "-v", f"{tmp_path}/{name}:/data", *script) for name in ("one", "two"))) as sandboxes:
        for sandbox, name in zip(sandboxes, ("one", "two"), strict=True):
            said = [ask(sandbox, name), *(ask(sandbox) for _ in range(3))]
            assert said == [f"of {name}", "own", "4321:8765 600", "1234:5678 640"]
        for sandbox, other in zip(sandboxes, ("two", "one"), strict=True):
            said = [ask(sandbox, other), *(ask(sandbox) for _ in range(2))]
            assert said == ["/proc/mounts:0", "/data/made:0", "/data/own:0"]
        require_shared(made)
    for name in ("one", "two"):
        info = (tmp_path / name / "made").stat()
        assert (info.st_uid, info.st_gid, info.st_mode & 0o777) == (1234, 5678, 0o640)
        assert (tmp_path / name / "made").read_text() == f"made by {name}\n"


def test_the_first_starts_at_once_make_one() -> None:
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda number: kata(*RUN, "busybox", "echo", str(number), check=True), range(3)))
    assert [run.stdout for run in done] == [b"0\n", b"1\n", b"2\n"]
    assert len(templates()) == 1


@pytest.mark.parametrize(("file", "way"), [("state", "virtio-fs"), ("memory", "virtio-fs"), ("state", "virtio-9p")])
def test_a_broken_template_costs_a_boot_and_nothing_else(file: str, way: str, tmp_path: Path) -> None:
    name = kata("template", "create", "-m", SIZE, "--shared-fs", way, check=True).stdout.decode().strip()
    os.truncate(paths.templates_dir() / name / file, 4096)
    (tmp_path / "file").write_text("up\n")
    words = ("--name", "broken", "-m", SIZE, "--shared-fs", way, "-v", f"{tmp_path}:/data")
    assert kata("run", *words, "busybox", "cat", "/data/file", check=True).stdout == b"up\n"
    [log] = paths.sandboxes_dir().glob("*/runtime.log")
    text = log.read_text()
    assert ("template" in text and "level=warn" in text) or "no template" in text, text
    kata("rm", "broken", check=True)


def test_a_making_that_is_killed_leaves_nothing_to_the_next() -> None:
    first = start("run", "--name", "killed", "-m", SIZE, "busybox", "true")
    _await(lambda: list(paths.templates_dir().glob("*.new/..")) and vmm_pids())
    for pid in _supervisors(first.pid):
        os.kill(pid, signal.SIGKILL)
    first.communicate(timeout=60)
    _await(lambda: not vmm_pids())
    assert kata(*RUN, "busybox", "echo", "up", check=True).stdout == b"up\n"
    kata("rm", "killed", check=True)


def test_without_a_template_it_boots() -> None:
    assert kata(*RUN, "--no-template", "busybox", "echo", "up", check=True).stdout == b"up\n"
    assert templates() == []


def _target(fd: Path) -> str:
    try:
        return os.readlink(fd)
    except OSError:
        return ""


@contextmanager
def held(*commands: tuple[str, ...]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The commands, until the end of their input."""
    sandboxes = [start(*words) for words in commands]
    try:
        yield sandboxes
    finally:
        for sandbox in sandboxes:
            sandbox.communicate(b"", timeout=60)


def ask(sandbox: subprocess.Popen[bytes], line: str = "") -> str:
    """Give a command a line where there is one; the next that it says."""
    assert sandbox.stdin is not None and sandbox.stdout is not None
    if line:
        sandbox.stdin.write(f"{line}\n".encode())
        sandbox.stdin.flush()
    said = sandbox.stdout.readline().decode()
    assert said.endswith("\n"), "the command ended"
    return said.rstrip()


def require_shared(name: str) -> None:
    """Both sandboxes have the template's one memory, which nobody can change, and their own pages beside it."""
    [entry] = templates()
    assert (entry["name"], entry["in_use"]) == (name, 2)
    first, second = (guest_memory(pid) for pid in vmm_pids())
    assert first == second == (name, first.inode, True)
    found = [fd for pid in vmm_pids() for fd in Path(f"/proc/{pid}/fd").iterdir() if "kata-template" in _target(fd)]
    assert len(found) >= 2
    assert {os.stat(fd).st_ino for fd in found} == {first.inode}, "there is no copy"
    for path in found:
        fd = os.open(path, os.O_RDWR)
        assert fcntl.fcntl(fd, F_GET_SEALS) == ALL_SEALS
        os.close(fd)


def _supervisors(client: int) -> list[int]:
    """The process that a command has forked to hold its sandbox."""
    return [int(pid) for pid in Path(f"/proc/{client}/task/{client}/children").read_text().split()]


def _await(condition: Any, timeout: float = 60.0) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.05)

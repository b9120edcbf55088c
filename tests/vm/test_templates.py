"""Sandboxes that go on from a template: made once, never changed; clones that differ; a template that is broken."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from kata import paths
from kata.factory.memory import ALL_SEALS, F_GET_SEALS
from tests.helpers.cli import kata, leftovers, start, vmm_pids

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
    sandboxes = [start("run", "--rm", "-i", "-m", SIZE, "busybox", "cat") for _ in range(2)]
    try:
        for sandbox in sandboxes:
            assert sandbox.stdin is not None and sandbox.stdout is not None
            sandbox.stdin.write(b"up\n")
            sandbox.stdin.flush()
            assert sandbox.stdout.readline() == b"up\n"
        found = [fd for pid in vmm_pids() for fd in Path(f"/proc/{pid}/fd").iterdir() if "kata-template" in _target(fd)]
        assert len(found) >= 2
        assert len({os.stat(fd).st_ino for fd in found}) == 1, "both have the same memory"
        for path in found:
            fd = os.open(path, os.O_RDWR)
            assert fcntl.fcntl(fd, F_GET_SEALS) == ALL_SEALS
            os.close(fd)
        assert templates()[0]["in_use"] == 2
    finally:
        for sandbox in sandboxes:
            sandbox.communicate(b"", timeout=60)


def test_the_first_starts_at_once_make_one() -> None:
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda number: kata(*RUN, "busybox", "echo", str(number), check=True), range(3)))
    assert [run.stdout for run in done] == [b"0\n", b"1\n", b"2\n"]
    assert len(templates()) == 1


@pytest.mark.parametrize("file", ["state", "memory"])
def test_a_broken_template_costs_a_boot_and_nothing_else(template: Path, file: str) -> None:
    os.truncate(template / file, 4096)
    assert kata("run", "--name", "broken", "-m", SIZE, "busybox", "echo", "up", check=True).stdout == b"up\n"
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


def _supervisors(client: int) -> list[int]:
    """The process that a command has forked to hold its sandbox."""
    return [int(pid) for pid in Path(f"/proc/{client}/task/{client}/children").read_text().split()]


def _await(condition: Any, timeout: float = 60.0) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.05)

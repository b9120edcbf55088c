"""Containers that use up what a guest has: memory, processes, files, output that nobody reads, requests.

A guest is as large as it was made, and its containers may have all of it: what must hold is that the agent answers
afterwards, that the containers can be removed, and that nothing of it grows on the host. Forks without end, and a hog
with a limit of its own: tests/vm/test_agent_live.py; floods at the shim: test_tenant_host.py.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import pytest

from kata.oci.spec import Spec
from kata.protocol.generated import health_pb2
from kata.sandbox.config import DEFAULT_MEMORY_MIB
from tests.helpers.arena import Arena, Edit
from tests.helpers.evidence import descendants

pytestmark = [pytest.mark.vm, pytest.mark.root]

MIB = 1 << 20
GUEST = DEFAULT_MEMORY_MIB * MIB
OVERHEAD = (256 + 150) * MIB
"""What QEMU has beside its guest's memory: translated code (tb-size, under emulation), itself and its file daemon."""
AGENT_GROWTH = 16 * MIB
FLOODS = 6
AT_ONCE = 200
FILES = """
m=0; while command eval ": > /dev/shm/$m" 2>/dev/null; do m=$((m+1)); done
echo $m
n=10; while command eval "exec $n</dev/null" 2>/dev/null; do n=$((n+1)); done
echo $n; while :; do sleep 1000; done
"""


def host_memory(arena: Arena) -> int:
    """Bytes that the sandbox's VMM and its file daemons have for themselves ."""
    return sum(rss(pid) for pid in descendants(os.getpid()) if arena.sandbox.config.id in cmdline(pid))


def cmdline(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")


def rss(pid: int) -> int:
    return int(Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()[0]) << 10


def agent_memory(arena: Arena) -> int:
    return int(arena.guest("grep ^VmRSS: /proc/1/status").out.split()[1]) << 10


def answers(arena: Arena) -> float:
    """Have the agent answer, and its guest's shell; seconds that the first takes."""
    begin = time.monotonic()
    arena.call("Check", health_pb2.CheckRequest(), "grpc.Health")
    return time.monotonic() - begin


@pytest.fixture(autouse=True)
def _bounded(arena: Arena) -> Iterator[None]:
    """Whatever was tried: the agent is there and no larger, the host's part is bounded."""
    before = agent_memory(arena)
    yield
    assert answers(arena) < 30.0
    for container in arena.sandbox.containers:
        arena.remove(container.id)
    after, host = agent_memory(arena), host_memory(arena)
    print(f"agent: {before >> 20} MiB, then {after >> 20} MiB; on the host: {host >> 20} MiB")
    assert after - before < AGENT_GROWTH
    assert host < GUEST + OVERHEAD
    left = arena.guest("find /sys/fs/cgroup -name cgroup.procs | grep kata | xargs -r cat").out
    assert left == "", "processes of containers are left"


def test_output_that_nobody_reads_stays_in_the_guest_and_small(arena: Arena) -> None:
    """GO-2022-0482 on the guest's side: six that never stop, on both streams; each waits when its pipe is full."""
    before = agent_memory(arena)
    for number in range(FLOODS):
        script = "while :; do dd if=/dev/zero bs=64k 2>/dev/null; done & exec dd if=/dev/zero bs=64k >&2"
        arena.start(f"flood{number}", arena.root(f"flood{number}"), lambda spec: spec, "sh", "-c", script)
    for _ in range(10):
        answers(arena)
    time.sleep(1.0)
    assert agent_memory(arena) - before < FLOODS * 2 * MIB
    said = arena.sandbox.agent.ask_output("flood0", "", stderr=False, size=1 << 16)()
    assert said and set(said) == {0}


def limited(megabytes: int | None) -> Edit:
    def edit(spec: Spec) -> Spec:
        resources = dict(spec["linux"]["resources"])
        if megabytes is not None:
            resources["memory"] = {"limit": megabytes * MIB}
        return cast(Spec, {**spec, "linux": {**spec["linux"], "resources": resources}})

    return edit


@pytest.mark.parametrize("limit", [64, None])
@pytest.mark.parametrize("way", ["anonymous", "files"])
def test_memory_without_end(limit: int | None, way: str, arena: Arena) -> None:
    """The guest's kernel ends the container's process, never the agent; memory of files is given back with it."""
    arena.start("victim", arena.root(f"victim-{limit}-{way}"))
    script = {
        "anonymous": "exec tail /dev/zero",
        "files": "for to in /dev/shm/x /dev/x; do dd if=/dev/zero of=$to bs=1M 2>/dev/null; done; exec tail /dev/zero",
    }[way]
    arena.start("hog", arena.root(f"hog-{limit}-{way}"), limited(limit), "sh", "-c", script)
    assert arena.sandbox.agent.ask_end("hog", "")() == 137
    arena.remove("hog")
    assert arena.exec("victim", "echo alive").out == "alive\n"
    free = arena.guest("awk '/^MemAvailable/ {print $2}' /proc/meminfo").out
    assert int(free) << 10 > GUEST // 4, "it is not given back"


def small_shm(spec: Spec) -> Spec:
    """A /dev/shm in which inodes end before the guest's memory does."""
    mounts = [
        {**mount, "options": [*mount["options"], "nr_inodes=2000"]} if mount["destination"] == "/dev/shm" else mount
        for mount in spec["mounts"]
    ]
    return cast(Spec, {**spec, "mounts": mounts})


def test_files_and_inodes_without_end(arena: Arena) -> None:
    """A container's root opens all the files that the guest has, and fills a file system with empty ones."""
    arena.start("files", arena.root("files"), small_shm, "sh", "-c", FILES)
    said = b""
    while said.count(b"\n") < 2:
        said += arena.sandbox.agent.ask_output("files", "", stderr=False, size=4096)()
    inodes, files = map(int, said.split())
    print(f"{files} files, {inodes} inodes")
    assert files > 1000 and inodes > 1000
    answers(arena)
    arena.remove("files")
    arena.start("other", arena.root("other"))
    assert arena.exec("other", "echo alive").out == "alive\n"


@pytest.mark.parametrize("count", [30, pytest.param(AT_ONCE, marks=pytest.mark.soak)])
def test_requests_without_end(count: int, arena: Arena) -> None:
    """So many processes at once; meanwhile the agent answers others, and in the end nothing of them is left in it."""
    arena.start("box", arena.root(f"box-{count}"))
    before = arena.guest("ls /proc/1/fd | wc -l; ls /proc/1/task | wc -l").out.split()
    with ThreadPoolExecutor(count) as pool:
        running = [pool.submit(arena.exec, "box", f"echo {number}") for number in range(count)]
        while not all(one.done() for one in running):
            assert answers(arena) < 30.0
            time.sleep(0.2)
        said = [one.result().out for one in running]
    assert said == [f"{number}\n" for number in range(count)]
    after = arena.guest("ls /proc/1/fd | wc -l; ls /proc/1/task | wc -l").out.split()
    assert int(after[0]) <= int(before[0]) + 2, (before, after)

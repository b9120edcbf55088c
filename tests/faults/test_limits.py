"""Too few files, too little memory, too few processes: for a command, and for a sandbox that runs"""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kata.cgroups.hierarchy import hierarchies, own_paths, path_in
from tests.faults.conftest import Tell
from tests.helpers.cli import ARGV, kata, ps, vmm_pids
from tests.helpers.faults import Said, await_true, faulty, run, said
from tests.helpers.hostcgroups import of_controller

pytestmark = [pytest.mark.vm, pytest.mark.root]


def limited(limit: int, value: int, *words: str) -> Said:
    """A `kata` command under a limit of its own."""

    def lower() -> None:
        resource.setrlimit(limit, (value, value))

    done = subprocess.run(
        [*ARGV, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=120,
        check=False,
        preexec_fn=lower,
    )
    return said(done)


@pytest.mark.parametrize("files", [8, 24, 63])
def test_too_few_files_for_a_sandbox(files: int, tell: Tell) -> None:
    """Said before anything is begun: half way, there might be none left to say it with."""
    done = limited(resource.RLIMIT_NOFILE, files, "run", "--rm", "busybox", "true")
    assert (done.code, done.layer) == (125, "host"), done
    assert done.what == f"this process may open {files} files, and a sandbox takes 64" or "no more files" in done.what
    assert "ulimit -n" in done.hint
    tell(f"{files} files", done.outcome)


def test_just_enough_files_for_a_sandbox(tell: Tell) -> None:
    done = limited(resource.RLIMIT_NOFILE, 64, "run", "--rm", "busybox", "echo", "here")
    assert (done.code, done.out) == (0, "here\n"), done
    tell("64 files", "runs")


@pytest.mark.parametrize("files", [12])
def test_few_files_are_enough_to_look(files: int) -> None:
    assert limited(resource.RLIMIT_NOFILE, files, "ps").code == 0


@pytest.mark.parametrize("mebibytes", [32, 200])
def test_too_little_address_space(mebibytes: int, tell: Tell) -> None:
    """For us or for QEMU, whose own words are told then."""
    done = limited(resource.RLIMIT_AS, mebibytes << 20, "run", "--rm", "busybox", "true")
    assert done.code != 0 and (done.layer in ("host", "VMM") or done.code == 127), done
    tell(f"{mebibytes} MiB of address space", done.outcome)


def controllers() -> set[str]:
    return {name for tree in hierarchies() for name in tree.controllers}


@contextmanager
def cgroup(controller: str, file: str, value: str) -> Iterator[Path]:
    """A cgroup with a limit, for a command's script to enter."""
    folder = of_controller(controller, f"/ktfault{os.getpid()}")
    folder.mkdir()
    try:
        (folder / file).write_text(value)
        yield folder
    finally:
        await_true(lambda: not (folder / "cgroup.procs").read_text())
        folder.rmdir()


def test_too_few_processes(tell: Tell) -> None:
    """There is none left for the sandbox's holder."""
    assert "pids" in controllers()
    with cgroup("pids", "pids.max", "1") as folder:
        done = faulty("run", "--rm", "busybox", "true", script=f"echo $$ > {folder}/cgroup.procs", inside=())
    assert (done.code, done.layer) == (125, "host"), done
    assert done.what.startswith("no process can be started for the sandbox")
    assert "TasksMax" in done.hint
    tell("one process", done.outcome)


def test_a_vmm_that_the_kernel_kills_for_its_memory(tell: Tell) -> None:
    """Its cgroup may use no more: the guest's next page ends it. Who waits hears that, and nothing is left."""
    assert "memory" in controllers()
    sandbox = kata("run", "-d", "busybox", "sleep", "1000", check=True).stdout.decode().strip()
    [pid] = vmm_pids()
    tree = next(tree for tree in hierarchies() if "memory" in tree.controllers)
    folder = Path(tree.root + path_in(tree, own_paths(pid)))
    assert sandbox in folder.name, "no other's is to be made small"
    v1 = tree.version == 1
    usage = int((folder / ("memory.usage_in_bytes" if v1 else "memory.current")).read_text())
    (folder / ("memory.limit_in_bytes" if v1 else "memory.max")).write_text(str(usage + (4 << 20)))
    done = run("exec", sandbox, "sh", "-c", "dd if=/dev/zero of=/dev/x bs=1M count=150")
    assert done.code != 0 and done.layer, done
    assert await_true(lambda: not vmm_pids())
    assert await_true(lambda: ps("-a")[0]["status"] == "stopped")
    [end] = ps("-a")
    assert end["exit_code"] == 137 and end["error"] == "the virtual machine ended (QEMU: killed by signal 9)", end
    tell("the kernel kills QEMU for its memory", end["error"])

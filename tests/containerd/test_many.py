"""Many containers, one after the other and at once, and processes that are killed in the middle of it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kata import paths
from tests.helpers.containerd import IMAGE, RUNTIME, Containerd

pytestmark = [pytest.mark.containerd, pytest.mark.root]

AT_ONCE = 3
SEED = int(os.environ.get("KATA_TEST_SEED", "1"))


def test_several_at_once(containerd: Containerd) -> None:
    def run(number: int) -> subprocess.CompletedProcess[bytes]:
        script = f"echo {number}; exit {number}"
        words = ("run", "--rm", "--runtime", RUNTIME, IMAGE, f"many{number}", "sh", "-c", script)
        return containerd.ctr(*words, check=False, timeout=600)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for number, done in enumerate(pool.map(run, range(AT_ONCE))):
            assert (done.stdout, done.returncode) == (b"%d\n" % number, number), done.stderr.decode()


@pytest.mark.parametrize("victim", ["vmm", "virtiofsd"])  # the shim: test_resources
def test_a_killed_process_takes_its_sandbox_along_and_no_more(containerd: Containerd, victim: str) -> None:
    containerd.run("victim", "sleep", "1000")
    os.kill(_find(containerd, "victim", victim), signal.SIGKILL)
    containerd.await_end("victim")
    containerd.ctr("task", "delete", "victim", check=False)
    containerd.ctr("container", "rm", "victim", check=False)


def test_a_containerd_that_is_killed_finds_its_tasks_again_for_execs_at_once(containerd: Containerd) -> None:
    containerd.run("survivor", "sh", "-c", "while :; do sleep 1; done")
    containerd.stop(signal.SIGKILL)
    containerd.start()
    assert containerd.status("survivor") == "RUNNING"
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda number: containerd.exec("survivor", f"e{number}", "echo", str(number)), range(24)))
    containerd.remove("survivor")
    assert [entry.stdout for entry in done] == [b"%d\n" % number for number in range(24)]


def test_a_start_that_is_interrupted_leaves_nothing(containerd: Containerd) -> None:
    """The shim is killed at a random moment of a container's start."""
    moment = random.Random(SEED).uniform(0.1, 8.0)
    process = containerd.popen(
        "run", "-d", "--runtime", RUNTIME, IMAGE, "broken", "sleep", "100", stderr=subprocess.DEVNULL
    )
    time.sleep(moment)
    for pid in containerd.shims():
        os.kill(pid, signal.SIGKILL)
    assert process.wait(120) in range(256), moment
    containerd.remove("broken")


def _find(containerd: Containerd, name: str, what: str) -> int:
    """The process of a sandbox that is to be killed."""
    vmm = int((paths.vm_dir() / name / "pid").read_text())
    if what == "vmm":
        return vmm
    [shim] = containerd.shims()
    for entry in Path(f"/proc/{shim}/task").iterdir():
        for child in (entry / "children").read_text().split():
            if "virtiofsd" in Path(f"/proc/{child}/comm").read_text():
                return int(child)
    raise AssertionError("no virtiofsd")

"""What takes long (`make soak`): many containers, a stress, and processes of ours killed at random moments.

KATA_TEST_SEED replays a run, KATA_SOAK_CUTS says how many kills there are.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from kata import paths
from tests.helpers.containerd import IMAGE, RUNTIME, Containerd

pytestmark = [pytest.mark.containerd, pytest.mark.root, pytest.mark.soak, pytest.mark.timeout(7200)]

SEED = int(os.environ.get("KATA_TEST_SEED", "1"))
CUTS = int(os.environ.get("KATA_SOAK_CUTS", "20"))
STRESS_SECONDS = 120


def run_once(containerd: Containerd, name: str) -> None:
    done = containerd.ctr("run", "--rm", "--runtime", RUNTIME, IMAGE, name, "echo", name, check=False, timeout=900)
    assert (done.stdout, done.returncode) == (f"{name}\n".encode(), 0), done.stderr.decode()


def test_twenty_in_sequence(containerd: Containerd) -> None:
    for number in range(20):
        run_once(containerd, f"seq{number}")


def test_ten_at_once(containerd: Containerd) -> None:
    with ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda number: run_once(containerd, f"par{number}"), range(10)))


def test_stress(containerd: Containerd) -> None:
    end = time.monotonic() + STRESS_SECONDS

    def work(worker: int) -> int:
        count = 0
        while time.monotonic() < end:
            run_once(containerd, f"stress{worker}-{count}")
            count += 1
        return count

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(work, range(4))) > 0


@pytest.mark.parametrize("cut", range(CUTS))
def test_a_kill_at_any_moment(containerd: Containerd, cut: int) -> None:
    """Operations go on while one of the processes dies; afterwards everything can be removed and nothing is left."""
    chance = random.Random(SEED * 1000 + cut)
    words = ("run", "-d", "--runtime", RUNTIME, IMAGE, "cut", "sleep", "1000")
    process = containerd.popen(*words, stderr=subprocess.DEVNULL)
    time.sleep(chance.uniform(0.0, 20.0))
    victim = chance.choice(["shim", "vmm", "containerd"])
    if process.poll() is not None:
        operation = chance.choice([("pause", "cut"), ("exec", "--exec-id", "e", "cut", "true"), ("kill", "cut")])
        other = containerd.popen("task", *operation, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        kill(containerd, victim)
        other.wait(300)
    else:
        kill(containerd, victim)
        process.wait(300)
    containerd.remove("cut")


def kill(containerd: Containerd, victim: str) -> None:
    """SIGKILL for the process, where there is one at this moment."""
    if victim == "containerd":
        containerd.stop(signal.SIGKILL)
        containerd.start()
        return
    pids = containerd.shims() if victim == "shim" else [int(path.read_text()) for path in paths.vm_dir().glob("*/pid")]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)

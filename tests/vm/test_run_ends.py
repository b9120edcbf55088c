"""Ways in which `kata run` ends early: interrupted while the guest boots, or without a reader for its output."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kata import paths
from tests.helpers.cli import ARGV, daemon_pids, kata, leftovers, ps, start, vmm_pids

pytestmark = [pytest.mark.vm, pytest.mark.root, pytest.mark.usefixtures("busybox")]


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    assert leftovers() == []
    yield
    for sandbox in ps("-a"):
        kata("rm", "-f", sandbox["id"])
    assert leftovers() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_during_the_boot_takes_it_down(number: signal.Signals) -> None:
    def heed() -> None:  # SIGINT is ignored in what a shell has put in the background
        signal.signal(number, signal.SIG_DFL)

    process = start("run", "--name", "early", "busybox", "true", stdin=subprocess.DEVNULL, preexec_fn=heed)
    wait_for(lambda: vmm_pids() != [])
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert vmm_pids() == []
    [sandbox] = ps("-a")
    assert (sandbox["status"], sandbox["error"]) == ("stopped", "the start was interrupted")


@pytest.mark.parametrize("when", ["boot", "run"])
def test_the_file_daemon_killed_is_told(when: str, tmp_path: Path) -> None:
    script = "echo ready; while :; do sleep 1; ls /data; done"
    process = start("run", "--name", "victim", "-v", f"{tmp_path}:/data", "busybox", "sh", "-c", script)
    assert process.stdout is not None
    if when == "boot":
        wait_for(lambda: any("phase=vmm" in log.read_text() for log in paths.sandboxes_dir().glob("*/runtime.log")))
    else:
        assert process.stdout.readline() == b"ready\n"
    [qemu] = vmm_pids()
    supervisor = parent_of(qemu)
    os.kill(next(pid for pid in daemon_pids() if parent_of(pid) == supervisor), signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == (125 if when == "boot" else 137)
    assert b"virtiofsd ended" in err
    [sandbox] = ps("-a")
    assert sandbox["error"] == "virtiofsd ended, which served the volumes"


@pytest.mark.parametrize("words", [("stop",), ("rm", "-f")])
def test_a_sandbox_that_boots_can_be_stopped_and_removed(words: tuple[str, ...]) -> None:
    process = start("run", "--name", "early", "busybox", "true", stdin=subprocess.DEVNULL)
    wait_for(lambda: vmm_pids() != [])
    kata(*words, "early", check=True)
    assert vmm_pids() == []
    _, err = process.communicate(timeout=60)
    assert process.returncode == 125
    assert b"the start was interrupted" in err


def test_output_without_a_reader_ends_the_container() -> None:
    process = start("run", "--rm", "busybox", "yes", stdin=subprocess.DEVNULL)
    assert process.stdout is not None
    assert process.stdout.readline() == b"y\n"
    process.stdout.close()
    with process:
        process.wait(timeout=60)
    assert process.returncode in (128 + signal.SIGPIPE, 128 + signal.SIGKILL)
    assert ps("-a") == []


def test_output_that_cannot_be_written_is_an_error() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*ARGV, "run", "--rm", "busybox", "echo", "text"],
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=180,
            check=False,
        )
    assert done.returncode == 125
    assert b"output cannot be written: No space left on device" in done.stderr


def test_a_closed_standard_input_is_an_empty_one() -> None:
    argv = ["sh", "-c", 'exec "$@" <&-', "sh", *ARGV, "run", "--rm", "-i", "busybox", "sh", "-c", "cat; echo end"]
    done = subprocess.run(argv, capture_output=True, timeout=180, check=False)
    assert (done.stdout, done.returncode) == (b"end\n", 0), done.stderr


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def wait_for(condition: Callable[[], bool], timeout: float = 60.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.1)

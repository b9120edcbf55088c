"""Ways in which `kata run` ends early: interrupted while the guest boots, or without a reader for its output."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from tests.helpers.cli import ARGV, kata, leftovers, ps, start, vmm_pids

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
    process = start("run", "--name", "early", "busybox", "true", stdin=subprocess.DEVNULL)
    wait_for(lambda: vmm_pids() != [])
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert vmm_pids() == []
    [sandbox] = ps("-a")
    assert (sandbox["status"], sandbox["error"]) == ("stopped", "the start was interrupted")


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


def wait_for(condition: Callable[[], bool], timeout: float = 60.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.1)

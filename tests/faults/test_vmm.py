"""A QEMU or file daemon that does not start, answer or end; damaged files of guests; clocks that jump"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from kata import paths
from tests.faults.conftest import Tell
from tests.helpers.arena import Arena
from tests.helpers.cli import daemon_pids, kata, ps, vmm_pids
from tests.helpers.faults import QEMU, Said, data_folder, faulty, run

pytestmark = [pytest.mark.vm, pytest.mark.root]

GARBAGE = """#!/usr/bin/python3.11 -IS
import socket, sys, time
fd = next(int(word.rpartition("fd=")[2]) for word in sys.argv if word.startswith("socket,id=qmp,"))
socket.socket(fileno=fd).sendall(b"\\xff{]\\n" * 1000)
time.sleep(1000)
"""
LONGEST = 40.0
"""Seconds in which a sandbox is removed whose processes do not move."""


def instead_of_qemu(tmp_path: Path, text: str, *words: str) -> Said:
    """A command for which the program QEMU is another."""
    program = tmp_path / "qemu"
    program.write_text(text)
    program.chmod(0o755)
    for folder in (tmp_path, *tmp_path.parents[:-1]):
        folder.chmod(folder.stat().st_mode | 0o011)
    return faulty(*words, script=f"mount --bind {program} {QEMU}")


def test_a_qemu_that_ends_at_once(tmp_path: Path, tell: Tell) -> None:
    done = instead_of_qemu(tmp_path, "#!/bin/sh\necho no such luck >&2\nexit 3\n", "run", "--rm", "busybox", "true")
    assert (done.code, done.layer) == (125, "VMM"), done
    assert done.what == "QEMU ended with exit code 3 while starting: no such luck"
    tell("QEMU ends at once", done.outcome)


def test_a_qemu_that_talks_garbage(tmp_path: Path, tell: Tell) -> None:
    done = instead_of_qemu(tmp_path, GARBAGE, "run", "--rm", "--no-template", "busybox", "true")
    assert (done.code, done.layer) == (125, "VMM"), done
    assert done.what and done.hint
    tell("QEMU talks garbage", done.outcome)


@pytest.mark.soak
def test_a_qemu_that_says_nothing(tmp_path: Path, tell: Tell) -> None:
    """It ignores SIGTERM, too."""
    text = "#!/usr/bin/python3.11 -IS\nimport signal\nsignal.signal(15, signal.SIG_IGN)\nsignal.pause()\n"
    done = instead_of_qemu(tmp_path, text, "run", "--rm", "--no-template", "busybox", "true")
    assert (done.code, done.layer) == (125, "VMM"), done
    assert done.what.startswith("QEMU did not answer within 30 s of its start")
    tell("QEMU says nothing", done.outcome)


@pytest.mark.parametrize("words", [pytest.param(("stop", "-t", "1"), marks=pytest.mark.soak), ("rm", "-f")])
def test_a_qemu_that_stands_still(words: tuple[str, ...], tell: Tell) -> None:
    """Stopped while it runs: it does not answer, and neither does its guest. It ends in time all the same."""
    sandbox = kata("run", "-d", "busybox", "sleep", "1000", check=True).stdout.decode().strip()
    [pid] = vmm_pids()
    os.kill(pid, signal.SIGSTOP)
    assert [entry["status"] for entry in ps()] == ["running"], "looking does not wait for it"
    begin = time.monotonic()
    done = run(*words, sandbox)
    assert time.monotonic() - begin < LONGEST
    assert not vmm_pids(), done
    tell(f"QEMU stands still: kata {words[0]}", done.outcome)


def test_a_file_daemon_that_stands_still(tmp_path: Path, tell: Tell) -> None:
    sandbox = kata("run", "-d", "-v", f"{tmp_path}:/v", "busybox", "sleep", "1000", check=True).stdout.decode().strip()
    for pid in daemon_pids():
        os.kill(pid, signal.SIGSTOP)
    begin = time.monotonic()
    done = run("rm", "-f", sandbox)
    assert time.monotonic() - begin < LONGEST
    assert done.code == 0 and not vmm_pids() and not daemon_pids(), done
    tell("the file daemon stands still", done.outcome)


@pytest.mark.soak
@pytest.mark.parametrize("name", ["vmlinuz", "kata-containers.img"])
def test_a_damaged_file_of_the_guest_is_made_again(name: str, tmp_path: Path, tell: Tell) -> None:
    """The kernel and the image carry their sums."""
    data = tmp_path / "data"
    data_folder(data, "images", "cache", "templates")
    (data / "assets").unlink()
    (data / "assets").mkdir(mode=0o755)
    for path in paths.assets_dir().iterdir():
        if path.is_file():
            (data / "assets" / path.name).write_bytes(path.read_bytes())
            (data / "assets" / path.name).chmod(0o644)
    os.truncate(data / "assets" / name, 1 << 20)
    for folder in (tmp_path, *tmp_path.parents[:-1]):
        folder.chmod(folder.stat().st_mode | 0o011)
    done = run("run", "--rm", "busybox", "echo", "here", env={"KATA_DATA_DIR": str(data)})
    assert (done.code, done.out) == (0, "here\n"), done
    tell(f"{name} is cut off", "it is made again")


@pytest.mark.parametrize("year", [pytest.param("2001", marks=pytest.mark.soak), "2037"])
def test_a_guest_whose_clock_jumps(year: str, debug_image: Path, tmp_path: Path, tell: Tell) -> None:
    """Nothing that waits goes by the time of day."""
    with Arena(tmp_path, debug_image) as arena:
        arena.start("box", arena.root("box"))
        assert arena.guest(f"date -s {year}-01-01").code == 0
        assert arena.exec("box", "date +%Y").out == f"{year}\n"
        container = arena.start("other", arena.root("other"), lambda spec: spec, "sh", "-c", "exit 7")
        assert container.init.wait(30.0) == 7
        assert abs((container.init.exited_at or 0.0) - time.time()) < 60.0, "the end is told by the host's clock"
        arena.remove("box")
    tell(f"the guest's clock jumps to {year}", "goes on")


def test_a_guest_that_was_held(tell: Tell) -> None:
    """QEMU gets no time for a while (a debugger, a host that slept): its guest goes on where it was."""
    sandbox = kata("run", "-d", "busybox", "sleep", "1000", check=True).stdout.decode().strip()
    [pid] = vmm_pids()
    os.kill(pid, signal.SIGSTOP)
    time.sleep(3.0)
    os.kill(pid, signal.SIGCONT)
    done = run("exec", sandbox, "date", "+%s")
    assert done.code == 0 and abs(int(done.out) - time.time()) < 5.0, done
    tell("the guest is held for 3 s", "goes on, with the right time")

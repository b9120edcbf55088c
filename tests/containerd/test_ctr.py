"""`ctr` with our runtime: what a user of containerd does with a container, and what is left of it afterwards."""

from __future__ import annotations

import hashlib
import os
import pty
import select
import time
from pathlib import Path

import pytest

from tests.helpers.containerd import IMAGE, RUNTIME, Containerd

pytestmark = [pytest.mark.containerd, pytest.mark.root]


def test_run_to_the_end(containerd: Containerd) -> None:
    script = "uname -r; echo oops >&2; cat /proc/1/comm; exit 7"
    done = containerd.ctr("run", "--rm", "--runtime", RUNTIME, IMAGE, "once", "sh", "-c", script, check=False)
    kernel, first = done.stdout.decode().split()
    assert kernel != os.uname().release
    assert (first, done.stderr, done.returncode) == ("sh", b"oops\n", 7)


def test_the_life_of_a_task(containerd: Containerd) -> None:
    containerd.run("life", "sh", "-c", "trap 'exit 9' TERM; while :; do sleep 0.2; done")
    assert containerd.status("life") == "RUNNING"
    done = containerd.exec("life", "e1", "sh", "-c", "echo hello; exit 4")
    assert (done.stdout, done.returncode) == (b"hello\n", 4)

    data = os.urandom(3_000_000)
    done = containerd.exec("life", "e2", "sha256sum", stdin=data)
    assert done.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()
    missing = containerd.exec("life", "e3", "no-such-program")
    assert missing.returncode != 0
    assert b"no-such-program" in missing.stderr and b"not found" in missing.stderr

    containerd.ctr("task", "pause", "life")
    assert containerd.status("life") == "PAUSED"
    containerd.ctr("task", "resume", "life")
    assert containerd.status("life") == "RUNNING"
    assert b"pids.current" in containerd.ctr("task", "metrics", "life").stdout
    assert len(containerd.ctr("task", "ps", "life").stdout.splitlines()) == 2

    again = containerd.ctr("run", "-d", "--runtime", RUNTIME, IMAGE, "life", "true", check=False)
    assert again.returncode != 0 and b"already exists" in again.stderr
    containerd.ctr("task", "kill", "-s", "TERM", "life")
    containerd.await_status("life", "STOPPED")
    assert b"9" in containerd.ctr("task", "delete", "life", check=False).stderr
    containerd.ctr("container", "rm", "life")


def test_a_terminal_and_its_size(containerd: Containerd) -> None:
    ours, theirs = pty.openpty()
    process = containerd.popen(
        "run", "--rm", "-t", "--runtime", RUNTIME, IMAGE, "term", "sh", stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    expect(ours, b"# ")
    os.write(ours, b"tty; stty size; echo a$((1+1))b\n")
    said = expect(ours, b"a2b")
    assert b"/dev/pts/" in said or b"/dev/console" in said
    os.write(ours, b"sleep 100\n")
    time.sleep(1.0)
    os.write(ours, b"\x03")
    os.write(ours, b"echo st$((2*2))ll\n")
    expect(ours, b"st4ll")
    os.write(ours, b"exit 5\n")
    assert process.wait(60) == 5
    os.close(ours)


def test_a_task_killed_before_its_start(containerd: Containerd) -> None:
    containerd.ctr("container", "create", "--runtime", RUNTIME, IMAGE, "unborn", "sleep", "100")
    process = containerd.popen("task", "start", "--detach", "unborn")
    assert process.wait(120) == 0
    containerd.remove("unborn")


def test_limits_and_volumes_of_the_host(containerd: Containerd, tmp_path: Path) -> None:
    (folder := tmp_path / "data").mkdir()
    (folder / "file").write_text("from the host\n")
    mounts = (
        *("--mount", f"type=bind,src={folder},dst=/data,options=rbind:rw"),
        *("--mount", f"type=bind,src={folder},dst=/fixed,options=rbind:ro"),
        # ctr leaves this one out where the host has cgroup v1
        *("--mount", "type=cgroup,src=cgroup,dst=/sys/fs/cgroup,options=ro"),
    )
    containerd.run("limits", "sleep", "1000", options=(*mounts, "--memory-limit", "67108864", "--cpus", "0.5"))
    shown = containerd.exec("limits", "e1", "cat", "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/cpu.max").stdout
    script = "cat /data/file; echo written > /data/new; echo no > /fixed/other"
    done = containerd.exec("limits", "e2", "sh", "-c", script)
    containerd.remove("limits")
    assert shown.split()[:3] == [b"67108864", b"50000", b"100000"], shown
    assert done.stdout == b"from the host\n"
    assert b"Read-only file system" in done.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["file", "new"]


def expect(fd: int, text: bytes, timeout: float = 180.0) -> bytes:
    """Read a terminal until it shows `text`."""
    said, deadline = b"", time.monotonic() + timeout
    while text not in said:
        assert select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0], f"{text!r} not in {said!r}"
        said += os.read(fd, 65536)
    return said

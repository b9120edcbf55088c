"""What the benchmark starts in, and how all of it ends: a state of its own, the `kata` command, containerd, processes.

The benchmark is the subreaper of all that it starts (prctl(2)), so that whatever loses its parent is still its own to
wait for, to count and, at the end, to end. Used by `__main__` and the parts.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.helpers.containerd import Containerd

from kata.linux import syscalls
from kata.linux.mounts import unmount_below

if TYPE_CHECKING:
    from collections.abc import Iterator

KATA = [sys.executable, "-I", "-m", "kata.ctl"]
KATA_TIME_LIMIT = 300.0
"""Seconds for one command."""
PATIENCE = 15.0
"""Seconds that processes have to end by themselves."""
TICK = os.sysconf("SC_CLK_TCK")


class BenchError(Exception):
    """A part cannot go on; the others can."""


@contextmanager
def own_state() -> Iterator[None]:
    """A state directory of the benchmark's own (sockets' paths are short), and no process left behind at its end."""
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    folder = f"/run/kb{os.getpid()}"
    before = os.environ.get("KATA_STATE_DIR")
    os.environ["KATA_STATE_DIR"] = folder
    try:
        yield
    finally:
        clear_up()
        unmount_below(folder)
        shutil.rmtree(folder, ignore_errors=True)
        os.environ.pop("KATA_STATE_DIR")
        if before is not None:
            os.environ["KATA_STATE_DIR"] = before


def clear_up() -> None:
    """End the sandboxes of the command, then every process that is still there. What is told to end may not."""
    if Path(os.environ["KATA_STATE_DIR"], "sbs").is_dir():
        with contextlib.suppress(BenchError, subprocess.TimeoutExpired):
            names = kata("ps", "-a", "-q").split()
            if names:
                kata("rm", "-f", *names)
    end_processes()


def kata(*words: str, stdin: bytes | None = None) -> str:
    """Run the command; what it prints. Raises BenchError."""
    done = subprocess.run(
        [*KATA, *words],
        input=stdin or b"",
        capture_output=True,
        timeout=KATA_TIME_LIMIT,
        check=False,
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        raise BenchError(f"kata {' '.join(words)[:80]} failed with exit code {done.returncode}: {said}")
    return done.stdout.decode()


def need(*programs: str) -> None:
    """Raise BenchError unless they are there."""
    for program in programs:
        if shutil.which(program) is None:
            raise BenchError(f"there is no {program} here; make setup installs it")


@contextmanager
def sandbox(*words: str) -> Iterator[str]:
    """A container of the command that runs in the background; its id."""
    cid = kata("run", "-d", *words).strip()
    try:
        yield cid
    finally:
        kata("rm", "-f", cid)


@contextmanager
def containerd() -> Iterator[Containerd]:
    """A running daemon with the busybox image. Afterwards neither it nor anything that it ran is there."""
    need("containerd", "ctr")
    folder = tempfile.mkdtemp(prefix="kb-", dir="/run")
    made = Containerd(Path(folder))
    try:
        made.start()
        made.import_image()
        yield made
    finally:
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired, OSError):
            for name in made.ctr("container", "ls", "-q").stdout.decode().split():
                made.remove(name)
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired, OSError):
            made.stop()
        end_processes()
        unmount_below(folder)
        shutil.rmtree(folder, ignore_errors=True)


# Section: processes


def descendants(root: int | None = None) -> list[int]:
    """Every process below one (this one), parents first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = int(stat_of(int(entry.name))[1])
                children.setdefault(parent, []).append(int(entry.name))
    found = [os.getpid() if root is None else root]
    for pid in found:
        found += children.get(pid, [])
    return found[1:]


def stat_of(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat (proc(5)) behind the name, the state first. Raises OSError."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def end_processes() -> None:
    """End whatever runs below this process: asked first, then killed."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in descendants():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        if await_processes([]):
            return


def await_processes(but: list[int], patience: float = PATIENCE) -> bool:
    """Whether everything below this process but these ended in time; what ended is waited for."""
    deadline = time.monotonic() + patience
    while True:
        reap()
        if set(descendants()) <= set(but):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)


def reap() -> None:
    """Wait for what has ended, which makes its time count as ours. Not while a child is waited for elsewhere."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def processor_seconds() -> float:
    """User and system time of this process, all below it, and all that any of them has waited for."""
    ours = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    total = sum(usage.ru_utime + usage.ru_stime for usage in ours)
    for pid in descendants():
        with contextlib.suppress(OSError):
            total += sum(int(field) for field in stat_of(pid)[11:15]) / TICK
    return total

"""crun, which owns namespaces, cgroups, capabilities, seccomp, terminals and exec; one method a subcommand.

Called by `container`. Every call has a deadline, and its failure is a ContainerError with what crun said.
Never interpret containers here.
"""

from __future__ import annotations

import json
import os
import signal
from contextlib import contextmanager

from kata.agent.errors import ContainerError, ContainerTimeout
from kata.linux import mounts
from kata.linux.fds import read_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kata.agent.process import Plumbing
    from kata.linux.reaper import Exit, Reaper

PROGRAM = "/usr/bin/crun"
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
TIMEOUT = 60.0
"""Seconds for any call; the slowest seen is 0.5 s under software emulation."""


class Crun:
    """Runs crun with its state below `state`. `options` are global options added to every call."""

    def __init__(self, reaper: Reaper, state: str, options: Sequence[str] = ()) -> None:
        self._reaper = reaper
        self._state = state
        self._options = options
        self._pivot: list[str] = ["--no-pivot"] if root_is_initramfs() else []

    def create(self, container_id: str, bundle: str, plumbing: Plumbing) -> Exit:
        """Make a container that waits for `start`; the Exit is that of its first process."""
        args = ["create", "--bundle", bundle, *self._pivot]
        return self._launch(args, container_id, plumbing)

    def exec(self, container_id: str, process_file: str, plumbing: Plumbing) -> Exit:
        """Start another process in a container; the Exit is its own."""
        return self._launch(["exec", "--detach", "--process", process_file], container_id, plumbing)

    def start(self, container_id: str, *, hooks: bool) -> None:
        """Let the container's first process go on to the command. `hooks`: there are some for the time after that."""
        if hooks or not self._let_go(container_id):
            self._run(["start", container_id])

    def delete(self, container_id: str) -> None:
        """Kill what is left, run the poststop hooks, remove cgroup and state. A missing container is fine."""
        self._run(["delete", "--force", container_id])

    def pause(self, container_id: str) -> None:
        """Freeze all processes of the container."""
        self._run(["pause", container_id])

    def resume(self, container_id: str) -> None:
        """Thaw the container."""
        self._run(["resume", container_id])

    def update(self, container_id: str, resources_file: str) -> None:
        """Apply the OCI LinuxResources in a file (JSON) to the container's cgroup."""
        self._run(["update", "--resources", resources_file, container_id])

    def forget(self, container_id: str) -> None:
        """Remove what crun noted of a container that it did not finish. Raises OSError."""
        mounts.remove_tree(f"{self._state}/{container_id}")

    def _let_go(self, container_id: str) -> bool:
        """What `crun start` does where there are no hooks: a byte for the process, and the pipe's name goes.

        False when the process does not wait there (crun 1.8.1: src/libcrun/status.c has the pipe); crun then says why.
        A program less to be run is half of a start in an emulated guest.
        """
        fifo = f"{self._state}/{container_id}/exec.fifo"
        try:
            fd = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            os.unlink(fifo)
            os.write(fd, b"\0")
        except OSError:
            return False  # it was killed at this moment, or another start was first
        finally:
            os.close(fd)
        return True

    def _launch(self, args: Sequence[str], container_id: str, plumbing: Plumbing) -> Exit:
        """Run a subcommand that leaves a process behind, and claim that process."""
        with self._scratch("pid") as pid_file, self._reaper.launching():
            console = ["--console-socket", plumbing.console] if plumbing.console else []
            fds = (plumbing.stdin, plumbing.stdout, plumbing.stderr)
            self._run([*args, "--pid-file", pid_file, *console, container_id], fds)
            return self._reaper.claim(int(read_text(pid_file)))

    def _run(self, args: Sequence[str], fds: tuple[int, int, int] | None = None) -> None:
        with memory_file("log") as log:
            argv = [PROGRAM, "--root", self._state, "--log", log, "--log-format", "json", *self._options, *args]
            code = self._wait(argv, fds)
            if code:
                raise ContainerError(f"crun {args[0]}: {said(log) or f'failed with exit code {code}'}")

    def _wait(self, argv: Sequence[str], fds: tuple[int, int, int] | None) -> int:
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        try:
            running = self._reaper.run(argv, ENVIRONMENT, *(fds or (null, null, null)))
        finally:
            os.close(null)
        code = running.wait(TIMEOUT)
        if code is None:
            running.send(signal.SIGKILL)
            raise ContainerTimeout(f"crun did not end within {TIMEOUT:.0f} s: {' '.join(argv)}")
        return code

    @contextmanager
    def _scratch(self, kind: str) -> Iterator[str]:
        """The path of a file that is gone afterwards."""
        folder = f"{self._state}-scratch"
        os.makedirs(folder, mode=0o700, exist_ok=True)
        path = f"{folder}/{kind}-{os.urandom(6).hex()}"
        try:
            yield path
        finally:
            if os.path.lexists(path):
                os.unlink(path)


@contextmanager
def memory_file(name: str) -> Iterator[str]:
    """The path of a file that needs no file system, which may be full: what crun then says would be lost."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    try:
        yield f"/proc/{os.getpid()}/fd/{fd}"
    finally:
        os.close(fd)


def said(log: str) -> str:
    """The messages of a crun log file (a JSON object a line), joined; empty when there are none."""
    try:
        lines = read_text(log).splitlines()
    except FileNotFoundError:
        return ""
    return "; ".join(_message(line) for line in lines)


def _message(line: str) -> str:
    try:
        return str(json.loads(line)["msg"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return line


def root_is_initramfs() -> bool:
    """Whether / is the kernel's first root, out of which pivot_root(2) is impossible."""
    for line in read_text("/proc/self/mountinfo").splitlines():
        fields = line.split(" ")
        if fields[4] == "/":
            return " - rootfs " in line
    return False

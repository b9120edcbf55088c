"""Streams: a container's output and input, and each layer below them alone, in MiB a second.

Two guests are needed, as the agent has the port of its own: the ways without one are busybox alone in a guest.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

from tools.bench import turns
from tools.bench.report import Comparison, Part, compare
from tools.bench.world import KATA, BenchError, sandbox

from kata import paths
from kata.agentctl.session import Options as SessionOptions
from kata.agentctl.session import Session
from kata.agentctl.targets import SandboxTarget
from kata.kernel import cpio
from kata.linux.fds import set_pipe_size, write_all
from kata.protocol.generated import agent_pb2
from kata.sandbox.stdio import READ_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tools.bench.options import Options

BUSYBOX = "/bin/busybox"
MIB = 64
PORT = "port: dd writes to it"
ZEROS = f"dd if=/dev/zero bs=64k count={MIB * 16}"
TIME_LIMIT = 120.0
"""Seconds for one measurement before the run is given up."""
RAW_INIT = f"""#!/bin/sh
/bin/busybox mount -t devtmpfs dev /dev
dd() {{ /bin/busybox dd "$@" 2>/dev/null; }}
set -- /dev/vport*p1
exec 3<>"$1"
while :; do
  read -r way <&3 || /bin/busybox sleep 0.1
  case "$way" in
    port) {ZEROS} >&3 ;;
    pipe) {ZEROS} | dd of=/dev/null bs=1M; echo >&3 ;;
    both) {ZEROS} | dd bs=1M >&3 ;;
  esac
  way=
done
"""


def measure(options: Options) -> Part:
    """Start both guests and measure."""
    with sandbox("busybox", "sleep", "10000") as cid, SandboxTarget(cid) as target:
        return Part(comparisons=[rates(cid, Session(target, SessionOptions()), options.runs)])


def rates(cid: str, session: Session, runs: int) -> Comparison:
    """MiB a second of each way through the sandbox `cid` and a raw guest."""
    with raw_port() as port:
        ways: dict[str, Callable[[], float]] = {
            PORT: lambda: through_port(port, "port"),
            "pipe: dd to dd, nothing leaves the guest": lambda: through_pipe(port),
            "pipe and port: dd to dd to the port": lambda: through_port(port, "both"),
            "ReadStdout": lambda: read_stdout(cid, session),
            "kata exec": lambda: exec_output(cid),
            "kata exec -i, its input": lambda: exec_input(cid),
        }
        samples = turns.take(ways, runs)
    return compare("Streams of a guest", "MiB/s", PORT, samples, "more")


@contextmanager
def raw_port() -> Iterator[socket.socket]:
    """The host's end of the port of a guest in which nothing but busybox runs and does what it is told."""
    from kata.hypervisor.machine import MachineSpec
    from kata.hypervisor.qemu.machine import QemuMachine

    files = {name: cpio.directory() for name in ("bin", "dev")}
    files["init"] = cpio.file(RAW_INIT.encode(), 0o755)
    files["bin/busybox"] = cpio.file(Path(BUSYBOX).read_bytes(), 0o755)
    files["bin/sh"] = cpio.symlink("busybox")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        initrd = Path(folder, "initrd")
        initrd.write_bytes(cpio.compress(cpio.archive(files)))
        kernel = paths.assets_dir() / "vmlinuz"
        spec = MachineSpec(
            sandbox_id="bench", directory=folder, kernel=os.fspath(kernel), initrd=os.fspath(initrd), image=None
        )
        with QemuMachine(spec) as machine, socket.socket(socket.AF_UNIX) as port:
            machine.boot()
            port.settimeout(TIME_LIMIT)
            port.connect(machine.agent_address().removeprefix("unix://"))
            try:
                yield port
            except OSError as error:
                raise BenchError(f"the raw port failed: {error}\n{machine.console_tail()}") from error


def through_port(port: socket.socket, way: str) -> float:
    """MiB a second that reach the host, from the first byte on."""
    port.sendall(f"{way}\n".encode())
    return rate_of(lambda: port.recv(READ_SIZE), MIB << 20)


def through_pipe(port: socket.socket) -> float:
    """MiB a second from one process of the guest to another; both have to be started within."""
    port.sendall(b"pipe\n")
    begin = time.monotonic()
    port.recv(1)
    return MIB / (time.monotonic() - begin)


def read_stdout(cid: str, session: Session) -> float:
    """MiB a second by requests through the process that holds the sandbox, one after the other."""
    exec_id = f"bench-{time.monotonic_ns()}"
    process = {"user": {"uid": 0, "gid": 0}, "cwd": "/", "env": ["PATH=/bin"], "args": ZEROS.split()}
    session.request(["ExecProcess", f"cid={cid}", f"exec_id={exec_id}", f"process={json.dumps(process)}"])
    words = ["ReadStdout", f"cid={cid}", f"exec_id={exec_id}", f"len={READ_SIZE}"]
    rate = rate_of(lambda: cast(agent_pb2.ReadStreamResponse, session.request(words)).data, MIB << 20)
    session.request(["WaitProcess", f"cid={cid}", f"exec_id={exec_id}"])
    return rate


def exec_output(cid: str) -> float:
    """MiB a second that come out of `kata exec`, from the first byte on."""
    command = [*KATA, "exec", cid, *ZEROS.split()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0) as process:
        assert process.stdout is not None
        out = process.stdout.fileno()
        set_pipe_size(out, READ_SIZE)
        return rate_of(lambda: os.read(out, READ_SIZE), MIB << 20)


def exec_input(cid: str) -> float:
    """MiB a second into `kata exec -i`, from when its program is there until it has read all."""
    script = "echo; dd of=/dev/null bs=1M 2>/dev/null"
    command = [*KATA, "exec", "-i", cid, "sh", "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdout.read(1)
        begin, data = time.monotonic(), bytes(READ_SIZE)
        for _ in range(MIB * 2**20 // READ_SIZE):
            write_all(process.stdin.fileno(), data)
        process.stdin.close()
        process.stdout.read()
        return MIB / (time.monotonic() - begin)


def rate_of(read: Callable[[], bytes], size: int) -> float:
    """MiB a second at which `read` gives `size` bytes, from the first ones on."""
    received = first = len(read())
    begin = time.monotonic()
    while received < size:
        data = read()
        if not data:
            raise BenchError(f"{received} of {size} bytes came")
        received += len(data)
    return (received - first) / 2**20 / (time.monotonic() - begin)

"""A shim's first answer: from `containerd-shim-… start` to what it says to Connect, ours and runc's in turns.

It is a part of every start that a machine's speed does not hide: no guest is there yet. Ours loads itself, or is forked
by a zygote that an earlier one has left.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, cast

from tests.helpers.containerd import ROOT
from tests.helpers.zygotes import await_zygote
from tools.bench import turns
from tools.bench.report import Part, compare
from tools.bench.world import BenchError, need

from kata import paths
from kata.protocol.client import Client
from kata.protocol.generated.host import task_pb2
from kata.protocol.status import RpcError
from kata.protocol.transport import dial

if TYPE_CHECKING:
    from tools.bench.options import Options

OURS = os.fspath(ROOT / "bin/containerd-shim-kata-v2")
RUNCS = "containerd-shim-runc-v2"
BY_RUNC = "runc's shim (Go)"
TASK = "containerd.task.v2.Task"
TIMEOUT = 30.0
SPEC = {"ociVersion": "1.0.2", "process": {"cwd": "/", "args": ["true"]}, "root": {"path": "rootfs"}, "linux": {}}


def measure(options: Options) -> Part:
    """Starts are short, so there are twice as many turns."""
    need(RUNCS)
    _first_answer(OURS, {})
    await_zygote(paths.state_dir() / "zygote")
    ways = {
        BY_RUNC: lambda: _first_answer(RUNCS, {}),
        "our shim, from a zygote": lambda: _first_answer(OURS, {}),
        "our shim, alone": lambda: _first_answer(OURS, {"KATA_ZYGOTE": "off"}),
    }
    return Part(comparisons=[compare("A shim's first answer", "ms", BY_RUNC, turns.take(ways, options.runs * 2))])


def _first_answer(program: str, environment: dict[str, str]) -> float:
    """Milliseconds until it has answered; it has ended when this returns. Raises BenchError."""
    name = f"bench{time.monotonic_ns()}"
    with tempfile.TemporaryDirectory(prefix="kb-", dir="/run") as bundle, contextlib.ExitStack() as undo:
        Path(bundle, "config.json").write_text(json.dumps(SPEC))
        os.mkfifo(f"{bundle}/log")  # as containerd makes it; runc's shim ends where nobody reads it
        log = os.open(f"{bundle}/log", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        undo.callback(os.close, log)
        words = [program, "-namespace", "bench", "-id", name, "-address", f"{bundle}/nobody.sock", "start"]
        env = {**os.environ, "TTRPC_ADDRESS": f"{bundle}/nobody.sock", **environment}
        begin = time.monotonic()
        done = subprocess.run(words, cwd=bundle, env=env, capture_output=True, timeout=TIMEOUT, check=False)
        if done.returncode:
            raise BenchError(f"{program}: {done.stderr.decode(errors='replace').strip()}")
        with contextlib.closing(Client(dial(done.stdout.decode().strip(), TIMEOUT))) as client:
            answer = client.call(f"{TASK}/Connect", task_pb2.ConnectRequest(id=name), timeout=TIMEOUT)
            seconds = time.monotonic() - begin
            _end(client, name, cast("task_pb2.ConnectResponse", answer).shim_pid)
    return seconds * 1000


def _end(client: Client, name: str, pid: int) -> None:
    pidfd = os.pidfd_open(pid)
    try:
        with contextlib.suppress(RpcError):  # it may be gone before it has said so
            client.call(f"{TASK}/Shutdown", task_pb2.ShutdownRequest(id=name, now=True), timeout=TIMEOUT)
        if not select.select([pidfd], [], [], TIMEOUT)[0]:
            raise BenchError(f"process {pid} of a shim does not end")
    finally:
        os.close(pidfd)

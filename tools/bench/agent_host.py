"""The agent as a process of this host on a unix socket, and crun beside it. `agent` runs this in namespaces.

python agent_host.py FOLDER RUNS      prints a part of the report as JSON
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

sys.path.append(str(Path(__file__).parents[2]))
from tools.bench.guest import specification
from tools.bench.lives import compare_lives, life
from tools.bench.report import Comparison, Fact, Part, p99, tidy
from tools.bench.turns import timed

from kata.agentctl.session import Options, Session
from kata.agentctl.targets import AddressTarget
from kata.protocol.client import Client, connect_agent
from kata.protocol.generated import agent_pb2, health_pb2
from kata.protocol.transport import dial

if TYPE_CHECKING:
    from collections.abc import Iterator

STARTS, CHECKS, THREADS = 10, 3000, 8
TURNS_MORE = 10
"""A container takes a hundredth of a start here, so there are so many times the turns."""
BUSYBOX = "/bin/busybox"


def measure(folder: Path, runs: int) -> Part:
    """Everything that is measured in the namespaces."""
    rootfs = folder / "rootfs"
    for name in ("bin", "proc", "dev"):
        (rootfs / name).mkdir(parents=True)
    (rootfs / "bin/busybox").write_bytes(Path(BUSYBOX).read_bytes())
    (rootfs / "bin/busybox").chmod(0o755)
    (rootfs / "bin/true").symlink_to("busybox")
    starts = []
    for _ in range(STARTS):
        with agent(folder) as (_, milliseconds):
            starts.append(milliseconds)
    with agent(folder) as (address, _):
        facts = [Fact("agent on the host, from its start to its first answer, at most", tidy(p99(starts)), "ms")]
        facts += requests(address)
        return Part(comparisons=containers(address, folder, rootfs, runs * TURNS_MORE), facts=facts)


@contextmanager
def agent(folder: Path) -> Iterator[tuple[str, float]]:
    """A running agent: its address, and the milliseconds from its start to its first answer."""
    address = f"unix://{folder}/agent.sock"
    options = ["--no-device-rules", "--log-level", "error"]
    begin = time.monotonic()
    process = subprocess.Popen([sys.executable, "-I", "-m", "kata.agent", "--server", address, *options])
    try:
        with connect_agent(lambda: dial(address, 1.0), 20.0) as client:
            milliseconds = (time.monotonic() - begin) * 1000
            yield address, milliseconds
            client.call("grpc.AgentService/DestroySandbox", agent_pb2.DestroySandboxRequest())
        process.wait(20)
    finally:
        process.kill()
        process.wait()


def requests(address: str) -> list[Fact]:
    """Checks a second over one connection: one after the other, and from several threads at once."""
    with Client(dial(address, 5.0)) as client:

        def ask(count: int) -> None:
            for _ in range(count):
                client.call("grpc.Health/Check", health_pb2.CheckRequest())

        ask(100)
        one = timed(lambda: ask(CHECKS))
        threads = [threading.Thread(target=ask, args=(CHECKS // THREADS,)) for _ in range(THREADS)]

        def together() -> None:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        several = timed(together)
    return [
        Fact("Check on the host, one at a time", round(CHECKS / one), "a second"),
        Fact("Check on the host, eight threads", round(CHECKS // THREADS * THREADS / several), "a second"),
    ]


def containers(address: str, folder: Path, rootfs: Path, runs: int) -> list[Comparison]:
    """A container of `true`: through the agent, and by crun alone with the same specification; in turns."""
    (folder / "config.json").write_text(json.dumps(specification(os.fspath(rootfs), "/bench/crun")))
    crun = ["crun", "--root", f"{folder}/crun"]

    def run() -> None:
        subprocess.run([*crun, "run", "-b", os.fspath(folder), "one"], check=True)

    def create_and_start() -> None:
        subprocess.run([*crun, "create", "-b", os.fspath(folder), "two"], check=True)
        subprocess.run([*crun, "start", "two"], check=True)

    def delete() -> None:
        subprocess.run([*crun, "delete", "--force", "two"], check=True)

    with AddressTarget(address) as target:
        session = Session(target, Options())
        session.request(["CreateSandbox"])
        ours = life(session, specification(os.fspath(rootfs), "/bench/agent"))
        return compare_lives("on the host", runs, ours, run, (create_and_start, delete))


if __name__ == "__main__":
    print(msgspec.json.encode(measure(Path(sys.argv[1]), int(sys.argv[2]))).decode())

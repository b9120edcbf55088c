"""The agent, against crun alone with the same specification: as a process of this host, and in a guest.

On the host it is run in namespaces of its own by `agent_host`. In a guest crun is started by a shell that waits in a
privileged container, so that both sides are asked over the same connection and timed from the host's end. The agent
runs crun three times in a container's life (create, start, delete), since the API is in those steps; `crun run` does
them in one process, so both are compared.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from tools.bench.guest import FOLDER, SANDBOX, own_proc, specification, start_shell
from tools.bench.lives import CRUN_ROOT, compare_lives, life
from tools.bench.report import Fact, Part, tidy
from tools.bench.turns import timed
from tools.bench.world import BenchError, await_processes, sandbox

from kata.agentctl.session import Options as SessionOptions
from kata.agentctl.session import Session
from kata.agentctl.targets import SandboxTarget
from kata.linux import cgroup
from kata.linux.mounts import mount_points

if TYPE_CHECKING:
    from collections.abc import Callable

    from tools.bench.options import Options
    from tools.bench.report import Comparison

NAMESPACES = ["unshare", "--mount", "--pid", "--ipc", "--uts", "--cgroup", "--net", "--fork", "--kill-child"]
# As in the agent's tests: a private /run, a pure cgroup v2 (crun refuses the hybrid kind), a /proc of the new pids.
INNER = """
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mount -t sysfs sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t proc proc /proc
exec "$@"
"""
GUEST_CHECKS = 300
CGROUP, CGROUP_TIMEOUT = "bench", 10.0
"""The folder above containers' cgroups, which crun leaves: it may be a pod's. Seconds to wait for the last process."""


def measure(options: Options) -> Part:
    """On the host, then in a guest."""
    on_host, in_guest = host(options.runs), guest(options.runs)
    return Part(
        comparisons=[*on_host.comparisons, *in_guest.comparisons],
        facts=[*on_host.facts, *in_guest.facts],
    )


def host(runs: int) -> Part:
    """What `agent_host` prints. Raises BenchError."""
    script = Path(__file__).with_name("agent_host.py")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        argv = [*NAMESPACES, "sh", "-c", INNER, "sh", sys.executable, "-I", os.fspath(script), folder, str(runs)]
        try:
            done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False)
        finally:
            _remove_cgroup()
    if done.returncode:
        raise BenchError(f"the agent on the host failed with exit code {done.returncode}")
    return msgspec.json.decode(done.stdout, type=Part)


def _remove_cgroup() -> None:
    """What crun has made in the namespaces' hierarchy, which begins with this process's own cgroup."""
    await_processes([])
    for mount in mount_points():
        if mount.fstype == "cgroup2":
            own = cgroup.cgroup_of(os.getpid()).removeprefix(cgroup.ROOT)
            if os.path.isdir(place := f"{mount.target}{own}/{CGROUP}"):
                cgroup.remove(place, time.monotonic() + CGROUP_TIMEOUT)


def guest(runs: int) -> Part:
    """The agent of a sandbox, and crun beside it in the same guest."""
    with sandbox("busybox", "sleep", "10000") as cid, SandboxTarget(cid) as target:
        session = Session(target, SessionOptions())
        shell = start_shell(session, f"{SANDBOX}/rootfs/{cid}")
        resident = agent_rss(shell)
        session.request(["Check"])
        seconds = timed(lambda: [session.request(["Check"]) for _ in range(GUEST_CHECKS)])
        comparisons = _containers(session, shell, f"{SANDBOX}/layers/{cid}", runs)
    facts = [
        Fact("agent in a guest, resident and idle", tidy(resident), "MiB"),
        Fact("Check in a guest, one at a time", round(GUEST_CHECKS / seconds), "a second"),
    ]
    return Part(comparisons=comparisons, facts=facts)


def _containers(session: Session, shell: Callable[[str], str], layer: str, runs: int) -> list[Comparison]:
    own_proc(shell)
    spec = json.dumps(specification(layer, "/bench/crun"))
    shell(f"cat >{FOLDER}/config.json <<'END'\n{spec}\nEND")
    crun = f"crun --root {CRUN_ROOT}"

    def run() -> None:
        shell(f"{crun} run -b {FOLDER} one || echo failed")

    def create_and_start() -> None:
        shell(f"{crun} create -b {FOLDER} two && {crun} start two || echo failed")

    def delete() -> None:
        shell(f"{crun} delete --force two || echo failed")

    ours = life(session, specification(layer, "/bench/agent"))
    return compare_lives("in a guest", runs, ours, run, (create_and_start, delete))


def agent_rss(shell: Callable[[str], str]) -> float:
    """Resident memory of the guest's first process, which is the agent, in MiB."""
    status = shell("cat /proc/1/status")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")) / 1024

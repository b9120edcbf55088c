"""One more process, `true`, in a container that runs: by each client, against crun exec in the same guest.

crun is run by a shell in the guest (`guest`), asked over the same connection as the agent, and has a container of its
own there, of the same files. `ctr` has a guest of its own, which the shim holds; neither does anything else.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from tools.bench import turns
from tools.bench.guest import FOLDER, SANDBOX, own_proc, specification, start_shell
from tools.bench.lives import CRUN_ROOT
from tools.bench.report import Part, compare
from tools.bench.world import BenchError, containerd, kata, sandbox

from kata.agentctl.session import Options as SessionOptions
from kata.agentctl.session import Session
from kata.agentctl.targets import SandboxTarget

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.helpers.containerd import Containerd
    from tools.bench.options import Options

CRUN = "crun exec in the guest"
NAME = "bench"


def measure(options: Options) -> Part:
    """All ways; turns are short, so there are twice as many."""
    with (
        containerd() as daemon,
        sandbox("busybox", "sleep", "10000") as cid,
        SandboxTarget(cid) as target,
    ):
        daemon.run(NAME, "sleep", "10000")
        session = Session(target, SessionOptions())
        crun = _crun(start_shell(session, f"{SANDBOX}/rootfs/{cid}"), f"{SANDBOX}/layers/{cid}")
        ways = {
            CRUN: lambda: crun("exec bench true"),
            "agent: ExecProcess, WaitProcess": lambda: _agent_exec(session, cid),
            "kata exec": lambda: kata("exec", cid, "true"),
            "ctr task exec": lambda: _ctr_exec(daemon),
        }
        samples = turns.take({name: turns.milliseconds(way) for name, way in ways.items()}, options.runs * 2)
    return Part(comparisons=[compare("A process in a running container", "ms", CRUN, samples)])


def _crun(shell: Callable[[str], str], layer: str) -> Callable[[str], object]:
    """crun in the guest, with a container `bench` that sleeps."""
    spec = json.dumps(specification(layer, "/bench/crun", "sleep", "10000"))
    own_proc(shell)
    shell(f"cat >{FOLDER}/config.json <<'END'\n{spec}\nEND")

    def crun(words: str) -> object:
        return shell(f"crun --root {CRUN_ROOT} {words} || echo failed")

    crun(f"run -d -b {FOLDER} bench </dev/null >/dev/null")
    return crun


def _agent_exec(session: Session, cid: str) -> None:
    exec_id = f"bench-{time.monotonic_ns()}"
    process = {"user": {"uid": 0, "gid": 0}, "cwd": "/", "env": ["PATH=/bin"], "args": ["true"]}
    session.request(["ExecProcess", f"cid={cid}", f"exec_id={exec_id}", f"process={json.dumps(process)}"])
    session.request(["WaitProcess", f"cid={cid}", f"exec_id={exec_id}"])


def _ctr_exec(daemon: Containerd) -> None:
    done = daemon.exec(NAME, f"e{time.monotonic_ns()}", "true")
    if done.returncode:
        raise BenchError(f"ctr task exec failed: {done.stderr.decode(errors='replace')}")

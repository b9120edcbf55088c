"""A shell in a guest that sees all of it, started through the agent, and the processes that it is asked to run.

What is compared with the agent inside of a guest is run by it. Used by `agent`, `execs` and `files`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

from tools.bench.world import BenchError

if TYPE_CHECKING:
    from collections.abc import Callable

    from kata.agentctl.session import Session
    from kata.protocol.generated import agent_pb2

CAPABILITIES = ["SYS_ADMIN", "SYS_CHROOT", "SYS_RESOURCE", "SYS_PTRACE", "BPF", "NET_ADMIN", "MKNOD", "SETPCAP"]
CAPABILITIES += ["SETUID", "SETGID", "SETFCAP", "DAC_OVERRIDE", "FOWNER", "CHOWN", "KILL"]
FOLDER = "/run/bench"
"""Of the benchmark, in the guest."""
SANDBOX = "/run/kata-containers/sandbox"


def start_shell(session: Session, rootfs: str) -> Callable[[str], str]:
    """A shell in a container that may do everything and has the guest's whole tree as its root; runs one command.

    Its /proc is the guest's until `own_proc`, which crun needs to look itself up. A chroot would not do, as crun exec
    enters a container by its mount namespace's root.
    """
    everything = [f"CAP_{name}" for name in CAPABILITIES]
    spec = specification(rootfs, "/bench/shell", "sh")
    spec["process"]["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), everything)
    spec["process"]["env"] = ["PATH=/bin:/sbin:/usr/bin:/usr/sbin"]
    spec["root"]["readonly"] = False
    spec["mounts"] = [{"destination": "/guest", "type": "bind", "source": "/", "options": ["rbind", "rprivate"]}]
    spec["linux"]["resources"] = {"devices": [{"allow": True, "access": "rwm"}]}
    session.request(["CreateContainer", "cid=shell", f"spec={json.dumps(spec)}"])
    session.request(["StartContainer", "cid=shell"])

    def run(command: str) -> str:
        session.request(["WriteStdin", "cid=shell", f"data=text:{{ {command}\n}} 2>&1\necho; echo =END=\n"])
        said = b""
        while not said.endswith(b"\n=END=\n"):
            reply = cast("agent_pb2.ReadStreamResponse", session.request(["ReadStdout", "cid=shell", "len=65536"]))
            if not reply.data:
                raise BenchError("the shell in the guest ended")
            said += reply.data
        if b"failed" in said:
            raise BenchError(f"in the guest: {command}: {said.decode()}")
        return said.decode()

    run(f"mkdir -p /guest{FOLDER}/old && cd /guest && pivot_root . .{FOLDER}/old || echo failed")
    run(f"cd /; export PATH=/usr/bin:/usr/sbin:{FOLDER}/old/bin:{FOLDER}/old/sbin")
    return run


def own_proc(shell: Callable[[str], str]) -> None:
    """A /proc of the shell's own process ids."""
    shell("mount -t proc proc /proc || echo failed")


def specification(rootfs: str, cgroup: str, *args: str) -> dict[str, Any]:
    """The least that crun and the agent both run: what the agent would change is written as it changes it."""
    kinds = ("ipc", "uts", "pid", "mount")
    return {
        "ociVersion": "1.0.2",
        "process": {"user": {"uid": 0, "gid": 0}, "args": list(args or ("true",)), "env": ["PATH=/bin"], "cwd": "/"},
        "root": {"path": rootfs, "readonly": True},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
        ],
        "linux": {"cgroupsPath": cgroup, "namespaces": [{"type": kind} for kind in kinds]},
    }

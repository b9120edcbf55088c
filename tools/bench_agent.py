"""The agent's part of `make bench`: on this host in namespaces of its own, and in a guest.

Called by `bench.py`; `python tools/bench_agent.py --inside FOLDER` is how it calls itself in the namespaces. Whatever
is compared is measured in turns in one run, since a machine that is busy is busy for both.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from kata.agentctl.session import Options, Session
from kata.agentctl.targets import AddressTarget, SandboxTarget
from kata.protocol.client import Client, connect_agent
from kata.protocol.generated import agent_pb2, health_pb2
from kata.protocol.transport import dial

KATA = [sys.executable, "-I", "-m", "kata.ctl"]
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
STARTS, CONTAINERS, CHECKS = 10, 100, 3000
GUEST_CONTAINERS, GUEST_CHECKS = 30, 300
BUSYBOX = "/bin/busybox"
CAPABILITIES = ["SYS_ADMIN", "SYS_CHROOT", "SYS_RESOURCE", "SYS_PTRACE", "BPF", "NET_ADMIN", "MKNOD", "SETPCAP"]
CAPABILITIES += ["SETUID", "SETGID", "SETFCAP", "DAC_OVERRIDE", "FOWNER", "CHOWN", "KILL"]


def measure() -> dict[str, Any]:
    """All figures of the agent."""
    return {"on_the_host": host(), "in_a_guest": guest()}


def host() -> dict[str, Any]:
    """The agent as a process of this host, on a unix socket."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        argv = [*NAMESPACES, "sh", "-c", INNER, "sh", sys.executable, "-I", __file__, "--inside", folder]
        done = subprocess.run(argv, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise SystemExit(f"bench: the agent's part failed with exit code {done.returncode}")
    return cast("dict[str, Any]", json.loads(done.stdout))


def inside(folder: Path) -> dict[str, Any]:
    """What `host` prints, measured in the namespaces."""
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
    try:
        with agent(folder) as (address, _):
            return {
                "start_to_first_answer_ms": spread(starts),
                **requests(address),
                "container_ms": containers(address, folder, rootfs),
            }
    finally:
        Path("/sys/fs/cgroup/bench").rmdir()  # crun leaves the folder above a container's: it may be a pod's


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


def requests(address: str) -> dict[str, float]:
    """Checks a second over one connection: one after the other, and from eight threads at once."""
    with Client(dial(address, 5.0)) as client:

        def ask(count: int) -> None:
            for _ in range(count):
                client.call("grpc.Health/Check", health_pb2.CheckRequest())

        ask(100)
        one = timed(lambda: ask(CHECKS))
        threads = [threading.Thread(target=ask, args=(CHECKS // 8,)) for _ in range(8)]

        def together() -> None:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        eight = timed(together)
    return {
        "checks_per_second_one_at_a_time": round(CHECKS / one),
        "checks_per_second_eight_threads": round(CHECKS // 8 * 8 / eight),
    }


def containers(address: str, folder: Path, rootfs: Path) -> dict[str, Any]:
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
        return in_turns(CONTAINERS, ours, run, (create_and_start, delete))


def guest() -> dict[str, Any]:
    """The agent of a sandbox, and crun beside it in the same guest, started by a shell that waits there."""
    command = [*KATA, "run", "-d", "busybox", "sleep", "10000"]
    cid = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    try:
        with SandboxTarget(cid) as target:
            session = Session(target, Options())
            shell = start_shell(session, f"/run/kata-containers/sandbox/rootfs/{cid}")
            result: dict[str, Any] = {"agent_rss_mib_idle": round(agent_rss(shell), 1)}
            session.request(["Check"])
            seconds = timed(lambda: [session.request(["Check"]) for _ in range(GUEST_CHECKS)])
            result["checks_per_second_one_at_a_time"] = round(GUEST_CHECKS / seconds)
            layer = f"/run/kata-containers/sandbox/layers/{cid}"
            result["container_ms"] = guest_containers(session, shell, layer)
    finally:
        subprocess.run([*KATA, "rm", "-f", cid], stdout=subprocess.DEVNULL, check=True)
    return result


def guest_containers(session: Session, shell: Callable[[str], str], layer: str) -> dict[str, Any]:
    """As `containers`, in the guest. Both sides are timed from here, over the same connection."""
    shell("mount -t proc proc /guest/proc; mkdir -p /guest/run/bench")
    spec = json.dumps(specification(layer, "/bench/crun"))
    shell(f"cat >/guest/run/bench/config.json <<'END'\n{spec}\nEND")
    crun = "chroot /guest /usr/bin/crun --root /run/bench/crun"

    def run() -> None:
        shell(f"{crun} run -b /run/bench one || echo failed")

    def create_and_start() -> None:
        shell(f"{crun} create -b /run/bench two && {crun} start two || echo failed")

    def delete() -> None:
        shell(f"{crun} delete --force two || echo failed")

    ours = life(session, specification(layer, "/bench/agent"))
    return in_turns(GUEST_CONTAINERS, ours, run, (create_and_start, delete))


def start_shell(session: Session, rootfs: str) -> Callable[[str], str]:
    """A shell in a container that may do everything and has the guest's whole tree at /guest; runs one command."""
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
        session.request(["WriteStdin", "cid=shell", f"data=text:{command}\necho; echo =END=\n"])
        said = b""
        while not said.endswith(b"\n=END=\n"):
            reply = cast(agent_pb2.ReadStreamResponse, session.request(["ReadStdout", "cid=shell", "len=65536"]))
            if not reply.data:
                raise SystemExit("bench: the shell in the guest ended")
            said += reply.data
        if b"failed" in said:
            raise SystemExit(f"bench: in the guest: {command}: {said.decode()}")
        return said.decode()

    return run


def agent_rss(shell: Callable[[str], str]) -> float:
    """Resident memory of the guest's first process, which is the agent, in MiB."""
    status = shell("cat /guest/proc/1/status")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")) / 1024


def life(session: Session, spec: dict[str, Any]) -> tuple[Callable[[], None], Callable[[], None]]:
    """The two halves of a container's life through the agent: created and started; waited for and removed."""
    request = ["CreateContainer", "cid=bench", f"spec={json.dumps(spec)}"]

    def begin() -> None:
        session.request(request)
        session.request(["StartContainer", "cid=bench"])

    def end() -> None:
        session.request(["WaitProcess", "cid=bench"])
        session.request(["RemoveContainer", "cid=bench"])

    return begin, end


def in_turns(
    count: int,
    ours: tuple[Callable[[], None], Callable[[], None]],
    run: Callable[[], None],
    create_start: tuple[Callable[[], None], Callable[[], None]],
) -> dict[str, Any]:
    """Milliseconds of each way and the ratios of the medians. The first turn warms caches and is not counted."""
    samples: dict[str, list[float]] = {}
    for turn in range(count + 1):
        begin, rest = timed(ours[0]), timed(ours[1])
        times = {
            "agent create+start": begin,
            "agent whole life": begin + rest,
            "crun run": timed(run),
            "crun create+start": timed(create_start[0]),
        }
        create_start[1]()
        for name, seconds in times.items() if turn else ():
            samples.setdefault(name, []).append(seconds * 1000)
    result: dict[str, Any] = {name: spread(values) for name, values in samples.items()}
    medians = {name: statistics.median(values) for name, values in samples.items()}
    result["ratio of whole lives"] = round(medians["agent whole life"] / medians["crun run"], 2)
    result["ratio of create+start"] = round(medians["agent create+start"] / medians["crun create+start"], 2)
    return result


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


def timed(action: Callable[[], object]) -> float:
    """How long it takes, in seconds."""
    begin = time.monotonic()
    action()
    return time.monotonic() - begin


def spread(values: list[float]) -> dict[str, float]:
    """Median and 99th percentile (of few values: the highest)."""
    ordered = sorted(values)
    highest = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return {"median": round(statistics.median(ordered), 2), "p99": round(highest, 2)}


def show(result: dict[str, Any]) -> None:
    """The same for people."""
    for place, figures in result.items():
        print(f"\nagent {place.replace('_', ' ')}")
        for name, value in figures.items():
            if name == "container_ms":
                for way, spread_or_ratio in value.items():
                    print(f"  {way:<34} {_text(spread_or_ratio)}")
            else:
                print(f"  {name.replace('_', ' '):<34} {_text(value)}")


def _text(value: object) -> str:
    if isinstance(value, dict):
        return f"median {value['median']:>8} ms   p99 {value['p99']:>8} ms"
    return str(value)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        print(json.dumps(inside(Path(sys.argv[2]))))
    else:
        show(measure())

"""The ways in which sandboxes are used, as `cuts` draws operations for them: `kata`, containerd's ctr, Kubernetes' CRI.

Each has a few slots, names that come and go. An operation that does not fit what a slot is, or that is cut short, may
fail in any way: what counts is what everyone says afterwards.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import grpc

from kata.errors import KataError
from kata.protocol.status import RpcError
from kata.shim.address import socket_path
from tests.helpers.cli import ARGV, kata, vmm_pids
from tests.helpers.containerd import IMAGE, RUNTIME, Containerd
from tests.helpers.cri import Container, Cri, Pod
from tests.helpers.strays import links_of_ours
from tests.kernel.netns import Netns

PATIENCE = 90.0
"""Seconds for one operation: much more than it takes."""
NUMBERS = itertools.count()


class Front(Protocol):
    """One way of using sandboxes. `absent` and `present` name operations for a slot that is free, or taken."""

    slots: list[str]
    absent: tuple[str, ...]
    present: tuple[str, ...]

    def has(self, slot: str) -> bool:
        """Whether the slot is taken."""

    def operate(self, what: str, slot: str, chance: float) -> str:
        """Do it; how it went, in words. `chance` in [0, 1) decides for one of its variants."""

    def living(self) -> dict[str, str]:
        """The slots of the sandboxes of which the front end says that they run, by their ids."""

    def check(self, sandbox_id: str) -> None:
        """A sandbox that runs must do as it is told. Raises AssertionError."""

    def strays(self) -> Iterator[str]:
        """What this front end alone knows to be left of those that do not run."""

    def clients(self) -> list[int]:
        """Processes that ask for something now."""

    def clear(self) -> None:
        """Remove all that there is."""


class KataFront:
    """The `kata` command."""

    absent: tuple[str, ...] = ("run", "run", "run", "run", "once")
    present: tuple[str, ...] = ("exec", "exec", "stop", "remove", "list", "logs", "metrics", "once")

    def __init__(self, slots: int, folder: Path) -> None:
        self.slots = [f"cut{os.getpid()}k{number}" for number in range(slots)]
        self._folder = folder
        self._running: list[subprocess.Popen[bytes]] = []
        self._lock = threading.Lock()

    def has(self, slot: str) -> bool:
        return any(entry["name"] == slot and entry["status"] != "stopped" for entry in self._list())

    def operate(self, what: str, slot: str, chance: float) -> str:
        if what == "run":
            self._run("rm", "-f", slot)
            volume = ["-v", f"{self._folder}:/data"] if chance < 0.3 else []
            network = ["--network", "none"] if 0.5 < chance < 0.6 else []
            rm = ["--rm"] if chance > 0.8 else []
            return self._run("run", "-d", "--name", slot, *volume, *network, *rm, "busybox", "sleep", "1000")
        words = {
            "once": ("run", "--rm", "busybox", "sh", "-c", "echo once; sleep 0.2"),
            "exec": ("exec", slot, "sh", "-c", "dd if=/dev/zero bs=1M count=2 | wc -c"),
            "stop": ("stop", "-t", "0", slot),
            "remove": ("rm", "-f", slot),
            "list": ("ps", "-a"),
            "logs": ("logs", slot),
            "metrics": ("metrics", slot),
        }[what]
        return self._run(*words)

    def living(self) -> dict[str, str]:
        found = {}
        for entry in self._list():
            if entry["status"] != "stopped" and entry["manager"] == "kata":
                found[entry["id"]] = entry["name"]
            elif entry["status"] == "stopped":
                assert entry["exit_code"] is not None, f"an end without an exit code: {entry}"
        return found

    def check(self, sandbox_id: str) -> None:
        status = self._await_start(sandbox_id)
        if status == "running":
            done = kata("exec", sandbox_id, "echo", "here")
            assert (done.stdout, done.returncode) == (b"here\n", 0), done.stderr.decode()

    def strays(self) -> Iterator[str]:
        yield from ()

    def clients(self) -> list[int]:
        with self._lock:
            return [process.pid for process in self._running if process.poll() is None]

    def clear(self) -> None:
        for entry in self._list():
            if entry["manager"] == "kata":
                kata("rm", "-f", entry["id"])

    def _await_start(self, sandbox_id: str) -> str:
        """What became of one whose client was killed before it ran."""
        deadline = time.monotonic() + PATIENCE
        while True:
            found = [entry["status"] for entry in self._list() if entry["id"] == sandbox_id]
            if found != ["creating"]:
                return found[0] if found else ""
            assert time.monotonic() < deadline, f"{sandbox_id} does not come to life"
            time.sleep(0.1)

    def _list(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in kata("ps", "-a", "--json", check=True).stdout.splitlines()]

    def _run(self, *words: str) -> str:
        pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        with subprocess.Popen([*ARGV, *words], **pipes) as process:
            with self._lock:
                self._running.append(process)
            _, said = process.communicate(timeout=PATIENCE)
            with self._lock:
                self._running.remove(process)
        assert b"Traceback" not in said, said.decode()
        return f"kata {' '.join(words)}: {process.returncode} {said.decode(errors='replace').strip()[-200:]}"


class CtrFront:
    """containerd's ctr. The first slot is in a network namespace of its own, which stays."""

    absent: tuple[str, ...] = ("run",)
    present: tuple[str, ...] = (
        *("exec", "exec", "pause", "resume", "kill", "terminate", "delete"),
        *("list", "processes", "metrics", "update"),
    )
    words: dict[str, tuple[str, ...]] = {
        "exec": ("exec", "--exec-id", "e{count}", "{slot}", "sh", "-c", "dd if=/dev/zero bs=1M count=2 | wc -c"),
        "pause": ("pause", "{slot}"),
        "resume": ("resume", "{slot}"),
        "kill": ("kill", "-s", "KILL", "{slot}"),
        "terminate": ("kill", "{slot}"),
        "delete": ("delete", "-f", "{slot}"),
        "list": ("ls",),
        "processes": ("ps", "{slot}"),
        "metrics": ("metrics", "{slot}"),
    }

    def __init__(self, daemon: Containerd, slots: int, pod: Netns) -> None:
        self.slots = [f"cut{os.getpid()}c{number}" for number in range(slots)]
        self._daemon = daemon
        self._pod = pod
        self._before = pod.state()

    def has(self, slot: str) -> bool:
        return bool(self._tasks().get(slot))

    def operate(self, what: str, slot: str, chance: float) -> str:
        if what == "update":
            return self._update(slot)
        if what == "run":
            self._daemon.ctr("container", "rm", slot, check=False)  # that of a task which is gone
            options = ["--with-ns", f"network:{self._pod.path}"] if slot == self.slots[0] else []
            words = ["run", "-d", "--runtime", RUNTIME, *options, IMAGE, slot, "sleep", "1000"]
        else:
            words = ["task", *(word.format(slot=slot, count=next(NUMBERS)) for word in self.words[what])]
        done = self._daemon.ctr(*words, check=False, timeout=PATIENCE)
        return f"ctr {' '.join(words)}: {done.returncode} {done.stderr.decode(errors='replace').strip()[-300:]}"

    def living(self) -> dict[str, str]:
        return {slot: slot for slot, status in self._tasks().items() if status in ("RUNNING", "PAUSED", "CREATED")}

    def check(self, sandbox_id: str) -> None:
        slot = sandbox_id
        if self._tasks()[slot] == "PAUSED":
            self._daemon.ctr("task", "resume", slot)
        if self._tasks()[slot] == "CREATED":
            try:
                self._daemon.start_task(slot)
            except RpcError as error:  # its own start may have come meanwhile; or its client took the FIFOs with it
                if "the client makes its FIFOs first" in error.message:
                    self._daemon.ctr("task", "delete", "-f", slot)
                    return
            self._daemon.await_status(slot, "RUNNING")
        done = self._daemon.exec(slot, f"check{next(NUMBERS)}", "echo", slot)
        assert (done.stdout, done.returncode) == (f"{slot}\n".encode(), 0), done.stderr.decode()

    def strays(self) -> Iterator[str]:
        tasks = self._tasks()
        if self.slots[0] not in tasks and self._pod.state() != self._before:
            yield f"the pod's network is not as it was: {self._pod.state()}"
        shims = {name for name in self.slots if self._has_shim(name)}
        for name in set(self.slots) - set(tasks):
            path = socket_path(str(self._daemon.address), self._daemon.namespace, name)
            yield from [f"shim of {name}"] if name in shims else []
            yield from [f"socket of {name}: {path}"] if os.path.exists(path) else []

    def clients(self) -> list[int]:
        return self._daemon.clients()

    def clear(self) -> None:
        for name in self._daemon.ctr("container", "ls", "-q").stdout.decode().split():
            self._daemon.remove(name)

    def _tasks(self) -> dict[str, str]:
        lines = self._daemon.ctr("task", "ls").stdout.decode().splitlines()[1:]
        return {line.split()[0]: line.split()[2] for line in lines}

    def _has_shim(self, slot: str) -> bool:
        for pid in self._daemon.shims():
            try:
                if slot.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                    return True
            except OSError:
                continue
        return False

    def _update(self, slot: str) -> str:
        try:
            self._daemon.update(slot, memory={"limit": 200 << 20}, cpu={"quota": 50000, "period": 100000})
        except (RpcError, KataError, OSError) as error:
            return f"update of {slot}: {error}"
        return f"update of {slot}: done"


class CriFront:
    """Pods with one container each, as a kubelet has them. It is the client itself, so nobody can kill that."""

    absent: tuple[str, ...] = ("run",)
    present: tuple[str, ...] = ("exec", "exec", "end", "another", "stop", "remove", "list", "stats", "update")

    def __init__(self, cri: Cri, daemon: Containerd, slots: int, logs: Path) -> None:
        self.slots = [f"cut{os.getpid()}p{number}" for number in range(slots)]
        self._cri = cri
        self._daemon = daemon
        self._logs = logs
        self._ever: list[str] = []

    def has(self, slot: str) -> bool:
        return slot in self.living().values()

    def operate(self, what: str, slot: str, chance: float) -> str:
        try:
            return f"cri {what} {slot}: {self._operate(what, slot, chance) or 'done'}"
        except (grpc.RpcError, AssertionError, StopIteration, IndexError) as error:
            details = error.details() if isinstance(error, grpc.RpcError) else error
            return f"cri {what} {slot}: {str(details)[-300:]}"

    def living(self) -> dict[str, str]:
        return {item.id: item.metadata.name for item in self._pods() if item.state == 0}

    def check(self, sandbox_id: str) -> None:
        running = self._running(sandbox_id)
        container = running[0] if running else self._start_container(self.living()[sandbox_id], sandbox_id)
        assert container.shell("echo here") == "here\n"

    def strays(self) -> Iterator[str]:
        living = set(self.living())
        for item in self._pods():
            if item.id not in living and self._running(item.id):
                yield f"container of the dead pod {item.id} is said to run"
        for pod in set(self._ever) - living:
            path = socket_path(str(self._daemon.address), self._daemon.namespace, pod)
            yield from [f"socket of the pod {pod}: {path}"] if os.path.exists(path) else []
        places = {f"/proc/{pid}/ns/net" for pid in vmm_pids()}
        used = {os.stat(place).st_ino for place in places if os.path.exists(place)}
        for netns in (self._daemon.folder / "state/io.containerd.grpc.v1.cri/netns").glob("*"):
            if os.stat(netns).st_ino not in used:
                yield from links_of_ours(str(netns))

    def clients(self) -> list[int]:
        return []

    def clear(self) -> None:
        for item in self._pods():
            self._remove(item.id)

    def _operate(self, what: str, slot: str, chance: float) -> str:
        if what == "run":
            self._remove_of(slot)
            self._start_container(slot, self._run_pod(slot))
            return ""
        if what == "list":
            return f"{len(self._pods())} pods"
        pod = next(found for found, name in self.living().items() if name == slot)
        if what in ("stop", "remove"):
            self._cri("StopPodSandbox", pod_sandbox_id=pod)
            return self._remove(pod) if what == "remove" else ""
        if what == "another":
            self._start_container(slot, pod)
        elif what == "stats":
            self._cri("ListPodSandboxStats")
        else:
            self._to_container(what, self._running(pod)[0], chance)
        return ""

    def _to_container(self, what: str, container: Container, chance: float) -> None:
        if what == "exec":
            container.shell("dd if=/dev/zero bs=1M count=2 | wc -c")
        elif what == "end":
            container.stop()
            if chance < 0.5:
                container.remove()
        else:
            limits = {"cpu_quota": 50000, "cpu_period": 100000}
            self._cri("UpdateContainerResources", container_id=container.id, linux=limits)

    def _run_pod(self, slot: str) -> str:
        metadata = {"name": slot, "uid": slot, "namespace": "cuts", "attempt": next(NUMBERS)}
        config = {"metadata": metadata, "hostname": slot, "log_directory": str(self._logs), "linux": {}}
        found: str = self._cri("RunPodSandbox", config=config, runtime_handler="kata").pod_sandbox_id
        self._ever.append(found)
        return found

    def _start_container(self, slot: str, pod: str) -> Container:
        metadata = {"name": slot, "uid": slot, "namespace": "cuts", "attempt": 0}
        config = {"metadata": metadata, "log_directory": str(self._logs), "linux": {}}
        return Pod(self._cri, config, pod).run(f"c{next(NUMBERS)}", "sleep", "1000")

    def _pods(self) -> list[Any]:
        return list(self._cri("ListPodSandbox").items)

    def _running(self, pod: str) -> list[Container]:
        found = self._cri("ListContainers", filter={"pod_sandbox_id": pod}).containers
        return [Container(self._cri, item.id, self._logs / "none") for item in found if item.state == 1]

    def _remove_of(self, slot: str) -> None:
        for item in self._pods():
            if item.metadata.name == slot:
                self._remove(item.id)

    def _remove(self, pod: str) -> str:
        for method in ("StopPodSandbox", "RemovePodSandbox"):
            self._cri(method, pod_sandbox_id=pod)
        return ""

"""What takes long (`make soak`): many containers, a stress, and processes of ours killed at random moments.

KATA_TEST_SEED draws the same operations and moments again, KATA_SOAK_CUTS says how many times five there are.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from kata import paths
from kata.errors import KataError
from kata.protocol.status import RpcError
from tests.helpers.cli import daemon_pids, vmm_pids
from tests.helpers.containerd import IMAGE, RUNTIME, Containerd
from tests.helpers.traces import await_none, traces
from tests.helpers.zygotes import zygotes
from tests.kernel.netns import Netns, connect, netns

pytestmark = [pytest.mark.containerd, pytest.mark.root, pytest.mark.soak, pytest.mark.timeout(7200)]

SEED = int(os.environ.get("KATA_TEST_SEED", "1"))
CUTS = int(os.environ.get("KATA_SOAK_CUTS", "40"))
OPERATIONS = 5
"""A cut has this many, the first of which boots a virtual machine."""
KILL_CHANCE = 0.5
RUN_SECONDS, OTHER_SECONDS = 4.0, 1.5
"""How long operations take on a slow host: kills come at any moment of that."""
KINDS = ("containerd", "shim", "vmm", "virtiofsd", "zygote")
VICTIMS = (*KINDS, "client", "all")
STRESS_SECONDS = 120

NUMBERS = itertools.count()

OTHERS: dict[str, tuple[str, ...]] = {
    "exec": ("task", "exec", "--exec-id", "e{count}", "{name}", "sh", "-c", "dd if=/dev/zero bs=1M count=2 | wc -c"),
    "pause": ("task", "pause", "{name}"),
    "resume": ("task", "resume", "{name}"),
    "kill": ("task", "kill", "-s", "KILL", "{name}"),
    "terminate": ("task", "kill", "{name}"),
    "delete": ("task", "delete", "-f", "{name}"),
    "list": ("task", "ls"),
    "processes": ("task", "ps", "{name}"),
    "metrics": ("task", "metrics", "{name}"),
    "update": (),
}


@pytest.fixture
def names(containerd: Containerd) -> Iterator[list[str]]:
    """The containers of a test, which names them here; afterwards nothing is left of them, and no zombie."""
    made: list[str] = []
    yield made
    assert await_none(lambda: traces(containerd, made)) == []


def run_once(containerd: Containerd, names: list[str]) -> None:
    name = f"once{os.getpid()}n{next(NUMBERS)}"
    names.append(name)
    done = containerd.ctr("run", "--rm", "--runtime", RUNTIME, IMAGE, name, "echo", name, check=False, timeout=900)
    assert (done.stdout, done.returncode) == (f"{name}\n".encode(), 0), done.stderr.decode()


def test_twenty_in_sequence(containerd: Containerd, names: list[str]) -> None:
    for _ in range(20):
        run_once(containerd, names)


def test_ten_at_once(containerd: Containerd, names: list[str]) -> None:
    with ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda _: run_once(containerd, names), range(10)))


def test_stress(containerd: Containerd, names: list[str]) -> None:
    end = time.monotonic() + STRESS_SECONDS

    def work(_: int) -> None:
        while time.monotonic() < end:
            run_once(containerd, names)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert names


@pytest.mark.parametrize("cut", range(CUTS))
def test_kills_at_any_moment(containerd: Containerd, cut: int) -> None:
    """Operations go on while processes of ours die; afterwards everything can be removed and nothing is left."""
    with netns("out") as outside, netns("pod") as pod:
        connect(outside, pod)
        before = pod.state()
        chaos = Chaos(containerd, pod, random.Random(SEED * 1000 + cut), f"cut{os.getpid()}n{cut}")
        for _ in range(OPERATIONS):
            chaos.operate()
        for name in chaos.names:
            containerd.remove(name)
        chaos.help_containerd()
        left = await_none(lambda: traces(containerd, chaos.names))
        assert left == [], "\n".join(chaos.done)
        assert pod.state() == before, "\n".join(chaos.done)


class Chaos:
    """Draws operations and victims. `done` is what happened, for the one who reads a failure."""

    def __init__(self, containerd: Containerd, pod: Netns, chance: random.Random, name: str) -> None:
        self.done: list[str] = []
        self.names = [f"{name}a", f"{name}b"]
        self._containerd = containerd
        self._pod = pod
        self._chance = chance
        self._count = 0
        self._cleaner_died = False

    def operate(self) -> None:
        """One operation, and perhaps one kill while it goes on."""
        name = self._chance.choice(self.names)
        status = self._containerd.status(name)
        what = self._chance.choice(sorted(OTHERS)) if status else "run"
        words = self._words(what, name)
        victim = self._chance.choice(VICTIMS) if self._chance.random() < KILL_CHANCE else "nobody"
        moment = self._chance.uniform(0.0, RUN_SECONDS if what == "run" else OTHER_SECONDS)
        self.done.append(
            f"{time.strftime('%T')} {what} {name}, which was {status!r}; {victim} dies after {moment:.2f} s"
        )
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(self._run, words, name)
            wait([running], moment)
            self._kill(victim)
            self.done.append(f"{time.strftime('%T')} {running.result()}")

    def help_containerd(self) -> None:
        """What an operator has to do if even the process died that containerd had started to clear up after a shim.

        containerd (1.6) does not start another one until it is started again itself, and meanwhile keeps the
        bundle's folder, so that the id cannot be used: with any shim, since a process that was killed can do nothing.
        """
        if self._cleaner_died:
            self.done.append("containerd is started again")
            self._containerd.stop()
            self._containerd.start()

    def _run(self, words: list[str], name: str) -> str:
        if not words:
            try:
                self._containerd.update(name, memory={"limit": 200 << 20}, cpu={"quota": 50000, "period": 100000})
            except (RpcError, KataError, OSError) as error:
                return f"update: {error}"
            return "updated"
        done = self._containerd.ctr(*words, check=False, timeout=600)
        return f"{done.returncode} {done.stderr.decode(errors='replace').strip()[:300]}"

    def _words(self, what: str, name: str) -> list[str]:
        """What ctr is asked; nothing for an update, which it does not know."""
        self._count += 1
        if what != "run":
            return [word.format(name=name, count=self._count) for word in OTHERS[what]]
        options = ["--with-ns", f"network:{self._pod.path}"] if name == self.names[0] else []
        self._containerd.ctr("container", "rm", name, check=False)  # that of a task which is gone
        return ["run", "-d", "--runtime", RUNTIME, *options, IMAGE, name, "sleep", "1000"]

    def _kill(self, victim: str) -> None:
        daemon = self._containerd
        pids = [pid for name in (KINDS if victim == "all" else [victim]) for pid in self._pids(name)]
        self._cleaner_died |= bool(set(pids) & set(self._containerd.cleaners()))
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if daemon.pid in pids:
            daemon.stop(signal.SIGKILL)
            daemon.start()

    def _pids(self, victim: str) -> list[int]:
        if victim == "shim":
            return self._containerd.shims()
        if victim == "client":
            return self._containerd.clients()
        if victim == "zygote":
            return zygotes(paths.state_dir() / "zygote")
        if victim == "containerd":
            return [self._containerd.pid]
        return {"vmm": vmm_pids, "virtiofsd": daemon_pids}.get(victim, list)()

"""Cuts: random operations through every front end, and `kill -9` of a random process at a random moment.

All that is drawn for a cut follows from the seed and the cut's number (`plan`), whatever happens meanwhile, so a seed
replays its operations, victims and moments; what the kernel makes of them is another matter. After each cut one command
clears up, everyone has to say what is true, nothing of the dead may be left, and survivors have to work.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import NamedTuple

import grpc

from kata import paths
from kata.hypervisor.processref import ProcessRef, process_ref
from kata.sandbox.store import Store
from tests.helpers.cli import daemon_pids, kata, vmm_pids
from tests.helpers.fronts import Front
from tests.helpers.node import Node
from tests.helpers.reliability import record
from tests.helpers.strays import dead_zygotes, strays
from tests.helpers.zygotes import zygotes

KINDS = ("supervisor", "shim", "vmm", "virtiofsd", "zygote", "containerd", "client")
VICTIMS = (*KINDS, "anybody", "all")
OPERATIONS = 2
LONGEST = 1.2
"""Seconds that a start takes at least: kills come at any moment of that."""
SETTLE_TIMEOUT = 60.0
"""Seconds in which all is cleared up, on a host however busy. How long it took is on record."""


class Operation(NamedTuple):
    """What happens to one slot: `absent` if it is free then, else `present`. `chance` decides for variants."""

    front: int
    slot: int
    absent: int
    present: int
    chance: float


class Plan(NamedTuple):
    """All that is random in one cut. `who` and `survivor` in [0, 1) choose among those that there are by then."""

    operations: tuple[Operation, ...]
    victim: str
    who: float
    moment: float
    doctor: bool
    survivor: float


def plan(seed: int, cut: int, fronts: int) -> Plan:
    """The same for the same arguments, on any host."""
    chance = random.Random(f"{seed}/{cut}")
    operations = tuple(
        Operation(chance.randrange(fronts), _any(chance), _any(chance), _any(chance), chance.random())
        for _ in range(OPERATIONS)
    )
    victim = chance.choice(VICTIMS)
    return Plan(operations, victim, chance.random(), chance.uniform(0, LONGEST), chance.random() < 0.5, chance.random())


def _any(chance: random.Random) -> int:
    """To choose by, whatever the number of choices is."""
    return chance.randrange(1 << 16)


class Cuts:
    """A node on which cuts are made. `said` is what happened in the last one, for the one who reads a failure."""

    def __init__(self, node: Node, fronts: Sequence[Front], seed: int) -> None:
        self.said: list[str] = []
        self.seed = seed
        self.victims: Counter[str] = Counter()
        self.operations = 0
        self.cuts = 0
        self.slowest_command = self.slowest = 0.0
        self._node = node
        self._fronts = fronts
        self._cleaner_died = False

    def cut(self, number: int) -> None:
        """Make one cut. Raises AssertionError when something is not as it should be afterwards."""
        drawn = plan(self.seed, number, len(self._fronts))
        self.said = [f"cut {number} of seed {self.seed}: {drawn.victim} dies after {drawn.moment:.2f} s"]
        self.cuts += 1
        with ThreadPoolExecutor(OPERATIONS) as pool:
            running = [pool.submit(self._operate, operation) for operation in drawn.operations]
            wait(running, drawn.moment, "FIRST_EXCEPTION")
            self._kill(drawn.victim, drawn.who)
            self.said += [one.result() for one in running]
        self._help_containerd()
        self.clear_up(doctor=drawn.doctor)
        self._check_survivors(drawn.survivor)

    def clear_up(self, *, doctor: bool) -> None:
        """What an operator does next; within a while everything has to be in order."""
        begin = time.monotonic()
        bad = self._ask_doctor() if doctor else []
        if not doctor:
            kata("ps", check=True)
        self.slowest_command = max(self.slowest_command, time.monotonic() - begin)
        left = self._await_order(begin)
        self.slowest = max(self.slowest, time.monotonic() - begin)
        assert not left, "\n".join(left)
        if bad:  # one that was about to end may have been found to answer no more
            bad = self._ask_doctor()
        assert not bad, bad

    def check_all(self) -> None:
        """Everyone who lives works, and the doctor has nothing to say any more."""
        self.clear_up(doctor=True)
        assert list(dead_zygotes()) == []
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda one: one[0].check(one[1]), [(f, name) for f in self._fronts for name in f.living()]))

    def clear(self) -> None:
        """Remove all that there is; nothing at all may be left then."""
        for front in self._fronts:
            front.clear()
        self.clear_up(doctor=True)
        assert Store().ids() == []

    def record(self, failures: Sequence[str], seconds: float) -> None:
        """Keep what this run was."""
        rows: list[tuple[str, int | float | str]] = [("cuts", self.cuts), ("operations", self.operations)]
        rows += [(f"killed: {victim}", count) for victim, count in sorted(self.victims.items())]
        rows += [
            ("slowest command that clears up (s)", round(self.slowest_command, 2)),
            ("slowest until all is in order (s)", round(self.slowest, 2)),
            ("the whole run (s)", round(seconds)),
        ]
        record("cuts", rows, failures=failures, seed=self.seed)

    # Section: the cut

    def _operate(self, drawn: Operation) -> str:
        self.operations += 1
        front = self._fronts[drawn.front]
        slot = front.slots[drawn.slot % len(front.slots)]
        begin = time.monotonic()
        try:
            taken = front.has(slot)
        except (AssertionError, grpc.RpcError) as error:  # containerd may be dead by now
            return f"{slot}: {error!r}"[:300]
        choice, number = (front.present, drawn.present) if taken else (front.absent, drawn.absent)
        return f"{front.operate(choice[number % len(choice)], slot, drawn.chance)} ({time.monotonic() - begin:.2f} s)"

    def _kill(self, victim: str, who: float) -> None:
        found = {kind: self._processes(kind) for kind in KINDS}
        everybody = [(kind, process) for kind in KINDS for process in found[kind]]
        chosen = [(victim, process) for process in found.get(victim, [])] or everybody
        chosen = everybody if victim == "all" else chosen[int(who * len(chosen)) :][:1]
        for kind, process in chosen:
            self.said.append(f"killed: {kind} {process.pid}")
            self._cleaner_died |= process.pid in self._node.daemon.cleaners()
            if process_ref(process.pid) == process:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
        self.victims.update({"all"} if victim == "all" else {kind for kind, _ in chosen})
        if "containerd" in (kind for kind, _ in chosen):
            self._node.restart(signal.SIGKILL)

    def _processes(self, kind: str) -> list[ProcessRef]:
        store, daemon = Store(), self._node.daemon
        if kind == "supervisor":
            holders = [store.holder(record.sandbox.id) for record in store.records() if record.manager == "kata"]
            return [holder for holder in holders if holder is not None]
        pids: dict[str, Callable[[], list[int]]] = {
            "shim": daemon.shims,
            "vmm": vmm_pids,
            "virtiofsd": daemon_pids,
            "zygote": lambda: zygotes(paths.state_dir() / "zygote"),
            "containerd": lambda: [daemon.pid],
            "client": lambda: [pid for front in self._fronts for pid in front.clients()],
        }
        return [process for pid in pids[kind]() if (process := process_ref(pid)) is not None]

    def _help_containerd(self) -> None:
        """What an operator has to do if even the process died that containerd had started to clear up after a shim.

        containerd (1.6) does not start another one until it is started again itself, and meanwhile keeps the
        bundle's folder, so that the id cannot be used: with any shim, since a process that was killed can do nothing.
        """
        if self._cleaner_died:
            self.said.append("containerd is started again")
            self._cleaner_died = False
            self._node.restart(signal.SIGTERM)

    # Section: afterwards

    def _ask_doctor(self) -> list[dict[str, str]]:
        """What it could not repair."""
        found = json.loads(kata("doctor", "--fix", "--json").stdout)["findings"]
        self.said += [f"doctor: {entry['state']} {entry['found']} → {entry['said']}" for entry in found]
        return [entry for entry in found if entry["state"] != "repaired" and entry["kind"] != "network"]

    def _await_order(self, begin: float) -> list[str]:
        """What is not in order, and still is not after a while."""
        while True:
            try:
                left = sorted(self._disorder())
            except FileNotFoundError as error:
                left = [f"something went while it was looked at: {error}"]
            if not left or time.monotonic() > begin + SETTLE_TIMEOUT:
                return left
            time.sleep(0.05)

    def _disorder(self) -> list[str]:
        told = {sandbox_id for front in self._fronts for sandbox_id in front.living()}
        store = Store()
        held = {sandbox_id for sandbox_id in store.ids() if store.alive(sandbox_id)}
        found = [f"{name} is said to run, and nobody holds it" for name in told - held]
        found += [f"{name} runs, and nobody says so" for name in held - told]
        return [*found, *strays(told & held), *(line for front in self._fronts for line in front.strays())]

    def _check_survivors(self, chance: float) -> None:
        """One of each front end."""
        found = [(front, sorted(front.living())) for front in self._fronts]
        chosen = [(front, living[int(chance * len(living))]) for front, living in found if living]
        self.said.append(f"to be checked: {[name for _, name in chosen]}")
        with ThreadPoolExecutor(len(self._fronts)) as pool:
            list(pool.map(lambda one: one[0].check(one[1]), chosen))

"""Ten containers at once through one containerd: whether all run, how long it takes, and what it costs.

The cost is processor time of everything: `ctr`, containerd, shims, virtiofsd and QEMU, whose threads are the guests.
All are waited for by somebody below the benchmark, so it is what the kernel has counted for them (getrusage(2), and
proc(5) for what stays: the daemon, and helpers that a first container leaves for those to come). The measure is ten
times that of the floor (`floor`), which is run once a turn.
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from tests.helpers.containerd import IMAGE, RUNTIME, Containerd
from tools.bench import turns
from tools.bench.floor import run_floor
from tools.bench.report import Fact, Part, compare
from tools.bench.world import BenchError, await_processes, containerd, descendants, processor_seconds, reap

if TYPE_CHECKING:
    from collections.abc import Callable

    from tools.bench.options import Options

AT_ONCE = 10
TIME_LIMIT = 300.0
"""Seconds for all of them."""
SETTLE = 5.0
"""Seconds for what a first container leaves behind."""
TEN_FLOORS = "ten times the floor"
SHIM = "ten at once, ctr run, our shim"
FAILURES = "failures of ten at once"


def measure(options: Options) -> Part:
    """Half as many turns as elsewhere: each is eleven starts."""
    failures: list[str] = []
    cost: dict[str, list[float]] = {TEN_FLOORS: [], SHIM: []}
    time: dict[str, list[float]] = {TEN_FLOORS: [], SHIM: []}
    with containerd() as daemon:
        run_floor()
        _wait([daemon.popen(*_words("warm"), stdout=subprocess.DEVNULL)])
        await_processes([daemon.pid], SETTLE)
        for _ in range(max(1, options.runs // 2)):
            seconds, spent = _counted(run_floor)
            time[TEN_FLOORS].append(seconds * AT_ONCE)
            cost[TEN_FLOORS].append(spent * AT_ONCE)
            seconds, spent = _counted(lambda: failures.extend(_ten(daemon)))
            time[SHIM].append(seconds)
            cost[SHIM].append(spent)
    return Part(
        comparisons=[
            compare("Processor time of ten containers, all processes and guests", "s", TEN_FLOORS, cost),
            compare("Time until the last of ten has ended", "s", TEN_FLOORS, time),
        ],
        facts=[Fact(FAILURES, float(len(failures)), "")],
    )


def _counted(action: Callable[[], object]) -> tuple[float, float]:
    """Seconds, and processor seconds, of an action with all that it started; that has ended then."""
    reap()
    there, before = descendants(), processor_seconds()
    seconds = turns.timed(action)
    if not await_processes(there):
        raise BenchError("processes of a container that has ended are still there")
    return seconds, processor_seconds() - before


def _ten(daemon: Containerd) -> list[str]:
    return _wait([daemon.popen(*_words(f"ten{number}"), stdout=subprocess.DEVNULL) for number in range(AT_ONCE)])


def _words(name: str) -> tuple[str, ...]:
    return ("run", "--rm", "--runtime", RUNTIME, IMAGE, name, "true")


def _wait(started: list[subprocess.Popen[bytes]]) -> list[str]:
    """Wait for them; what went wrong with those that failed."""
    try:
        codes = [process.wait(TIME_LIMIT) for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    return [f"exit code {code}" for code in codes if code]

"""Starts of containers, from the command to the end of `true` in busybox, by each way in turns.

By `kata run` from a template and by a boot, by `ctr run` with our shim and with runc through the same containerd, and
the floor of all (`floor`). Also where the time of `kata run` goes.
"""

from __future__ import annotations

import functools
import json
import statistics
from typing import TYPE_CHECKING

from tests.helpers.containerd import IMAGE, RUNTIME, Containerd
from tools.bench import turns
from tools.bench.floor import run_floor
from tools.bench.report import Grid, Part, compare, tidy
from tools.bench.world import containerd, kata

if TYPE_CHECKING:
    from collections.abc import Callable

    from tools.bench.options import Options

BOOTS_IN = 5
"""One boot for so many of the other ways: it takes as long as all of them."""
RUNC = "io.containerd.runc.v2"
FLOOR = "floor: no runtime"
SHIM = "ctr run, our shim"


def measure(options: Options) -> Part:
    """All ways of a start."""
    with containerd() as daemon:
        ways = {name: turns.milliseconds(way) for name, way in _ways(daemon).items()}
        samples = turns.take(ways, options.runs, sparse={"kata run, booted": BOOTS_IN})
    return Part(
        comparisons=[compare("From the command to the end of true", "ms", FLOOR, samples)],
        grids=[_phases(max(1, options.runs // BOOTS_IN))],
    )


def _ways(daemon: Containerd) -> dict[str, Callable[[], object]]:
    return {
        FLOOR: run_floor,
        "kata run": lambda: kata("run", "--rm", "busybox", "true"),
        "kata run, booted": lambda: kata("run", "--rm", "--no-template", "busybox", "true"),
        SHIM: functools.partial(run_once, daemon, RUNTIME),
        "ctr run, runc": functools.partial(run_once, daemon, RUNC),
    }


def run_once(daemon: Containerd, runtime: str) -> None:
    """A container of `true` through containerd, to its removal."""
    daemon.ctr("run", "--rm", "--runtime", runtime, IMAGE, "bench", "true")


def _phases(runs: int) -> Grid:
    """Each phase of `kata run`, by a template and by a boot in turns: medians."""
    samples: dict[str, list[list[float]]] = {}
    for _ in range(runs):
        for column, way in enumerate(((), ("--no-template",))):
            for phase, milliseconds in _phases_of(way).items():
                samples.setdefault(phase, [[], []])[column].append(milliseconds)
    rows = {
        phase: [tidy(statistics.median(values)) if values else 0.0 for values in columns]
        for phase, columns in samples.items()
    }
    return Grid("Phases of kata run", "ms", ["from a template", "by a boot"], rows)


def _phases_of(way: tuple[str, ...]) -> dict[str, float]:
    name = "bench-phases"
    kata("run", "--name", name, *way, "busybox", "true")
    try:
        records = [json.loads(line) for line in kata("ps", "-a", "--json").splitlines()]
        found: dict[str, float] = next(record["phases_ms"] for record in records if record["name"] == name)
        return found
    finally:
        kata("rm", name)

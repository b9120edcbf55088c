"""Starts of containers, from the command to the end of `true` in busybox, by each way in turns.

By `kata run` and by `ctr run` with our shim, each from a template and by a boot, by `ctr run` with runc through the
same containerd, and the floor of all (`floor`). The same samples are divided by the floor, by what a boot takes, and by
runc. Also where the time of `kata run` goes.
"""

from __future__ import annotations

import json
import os
import statistics
from typing import TYPE_CHECKING

from tests.helpers.containerd import IMAGE, RUNTIME, Containerd
from tools.bench import turns
from tools.bench.floor import run_floor
from tools.bench.report import Comparison, Grid, Part, compare, tidy
from tools.bench.world import containerd, kata

if TYPE_CHECKING:
    from collections.abc import Callable

    from tools.bench.options import Options

BOOTS_IN = 5
"""One boot for so many of the other ways: it takes as long as all of them."""
RUNC = "io.containerd.runc.v2"
FLOOR = "floor: no runtime"
SHIM = "ctr run, our shim"
BY_RUNC = "ctr run, runc"
COMMAND = "kata run"
BOOTED = ", booted"


def measure(options: Options) -> Part:
    """All ways of a start."""
    with containerd() as daemon:
        ways = {name: turns.milliseconds(way) for name, way in _ways(daemon).items()}
        samples = turns.take(ways, options.runs, sparse={f"{COMMAND}{BOOTED}": BOOTS_IN, f"{SHIM}{BOOTED}": BOOTS_IN})
    return Part(
        comparisons=comparisons(samples),
        grids=[_phases(max(1, options.runs // BOOTS_IN))],
    )


def _ways(daemon: Containerd) -> dict[str, Callable[[], object]]:
    config = daemon.folder / "cold.toml"
    config.write_text("[hypervisor.qemu]\n[factory]\nenable_template = false\n[runtime]\n")
    return {
        FLOOR: run_floor,
        COMMAND: lambda: kata("run", "--rm", "busybox", "true"),
        f"{COMMAND}{BOOTED}": lambda: kata("run", "--rm", "--no-template", "busybox", "true"),
        SHIM: lambda: run_once(daemon, RUNTIME),
        f"{SHIM}{BOOTED}": lambda: run_once(daemon, RUNTIME, "--runtime-config-path", os.fspath(config)),
        BY_RUNC: lambda: run_once(daemon, RUNC),
    }


def comparisons(samples: dict[str, list[float]]) -> list[Comparison]:
    """The one with the floor first, as it is the aim's. Pure."""

    def pair(title: str, base: str, way: str) -> Comparison:
        return compare(title, "ms", base, {base: samples[base], way: samples[way]})

    return [
        compare("From the command to the end of true", "ms", FLOOR, samples),
        pair("kata run: from a template, against a boot", f"{COMMAND}{BOOTED}", COMMAND),
        pair("ctr run: from a template, against a boot", f"{SHIM}{BOOTED}", SHIM),
        pair("ctr run: our shim, against runc", BY_RUNC, SHIM),
    ]


def run_once(daemon: Containerd, runtime: str, *options: str) -> None:
    """A container of `true` through containerd, to its removal."""
    daemon.ctr("run", "--rm", "--runtime", runtime, *options, IMAGE, "bench", "true")


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

"""Memory of idle sandboxes of one template: how much each further one takes, and what goes back to the host.

Sandboxes of busybox `sleep` are started one after the other, by the shim and by the command, and the kernel's figures
of all their processes are read at 1, 2, 5, 10, 20 and so on. By the shim also with 9p and without giving back what is
freed, as such guests share their template's memory. Memory does not depend on how busy a machine is, so there
are no turns; what it is compared with is the first sandbox.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from tests.helpers.containerd import Containerd
from tools.bench import memory
from tools.bench.memory import FILE, HOLDER, KINDS, QEMU, Sample
from tools.bench.report import Comparison, Fact, Grid, Part, compare, tidy
from tools.bench.world import BenchError, containerd, sandbox

if TYPE_CHECKING:
    from collections.abc import Callable

    from tools.bench.options import Options

STEPS = (1, 2, 5, 10, 20, 30, 40, 50, 75, 100)
SETTLE = 5.0
"""Seconds after the last start of a step: what starting took is given back by then."""
FREED_MIB = 100
RETURN_TIME = 20.0
"""Seconds that freed memory has to reach the host."""
IDLE = ("sleep", "100000")
NINEP = '[hypervisor.qemu]\nshared_fs = "virtio-9p"\nreclaim_guest_freed_memory = false\n'


def measure(options: Options) -> Part:
    """Both front ends, then what is given back."""
    with containerd() as daemon:
        by_shim = _fill(options.sandboxes, lambda number, undo: _run_by_shim(daemon, number, undo))
        config = daemon.folder / "9p.toml"
        config.write_text(NINEP)
        words = ("--runtime-config-path", os.fspath(config))
        by_ninep = _fill(options.sandboxes, lambda number, undo: _run_by_shim(daemon, number, undo, words))
        returned = _returned(daemon)
    by_command = _fill(options.sandboxes, _run_by_command)
    facts = [
        *summary("ctr", "shim", by_shim),
        *summary("ctr, 9p", "shim", by_ninep),
        *summary("kata", "supervisor", by_command),
        *returned,
    ]
    return Part(
        comparisons=further([("kata run", by_command), ("ctr run, our shim", by_shim), ("ctr run, 9p", by_ninep)]),
        grids=[
            grid("All of so many idle sandboxes by ctr run, our shim", by_shim),
            grid("All of so many idle sandboxes by ctr run, 9p", by_ninep),
            grid("All of so many idle sandboxes by kata run", by_command),
        ],
        facts=facts,
    )


def _fill(count: int, start: Callable[[int, ExitStack], None]) -> dict[int, Sample]:
    """Start `count` sandboxes; the figures at each step. All are ended.

    One more comes and goes before: it makes the template where there is none, which takes memory of its own.
    """
    samples: dict[int, Sample] = {}
    with ExitStack() as undo:
        start(0, undo)
    with ExitStack() as undo:
        for number in range(1, count + 1):
            start(number, undo)
            if number in STEPS or number == count:
                time.sleep(SETTLE)
                samples[number] = memory.sample()
    return samples


def _run_by_shim(daemon: Containerd, number: int, undo: ExitStack, options: tuple[str, ...] = ()) -> None:
    daemon.run(f"idle{number}", *IDLE, options=options)
    undo.callback(daemon.remove, f"idle{number}")


def _run_by_command(number: int, undo: ExitStack) -> None:
    undo.enter_context(sandbox("busybox", *IDLE))


def _returned(daemon: Containerd) -> list[Fact]:
    """What a container that fills a tmpfs and empties it makes its QEMU take, and give back."""
    size = f"{FREED_MIB * 2}m"
    daemon.run("full", *IDLE, options=("--mount", f"type=tmpfs,src=tmpfs,dst=/full,options=size={size}"))
    try:
        time.sleep(SETTLE)
        before = _guest()
        _must(
            daemon,
            "fill",
            f"dd if=/dev/zero of=/full/it bs=1M count={FREED_MIB} && grep -c ' /full tmpfs' /proc/mounts",
        )
        full = _guest()
        _must(daemon, "empty", "rm /full/it")
        lowest, end = full, time.monotonic() + RETURN_TIME
        while time.monotonic() < end:
            time.sleep(0.5)
            lowest = min(lowest, _guest())
    finally:
        daemon.remove("full")
    return [
        Fact(f"ctr: taken by a container that writes {FREED_MIB} MiB", tidy(full - before), "MiB"),
        Fact(f"ctr: given back within {RETURN_TIME:.0f} s of their removal", tidy(full - lowest), "MiB"),
    ]


def _guest() -> float:
    """Private memory of the one QEMU that there is, its guest's file included, in MiB."""
    found = memory.sample().kinds
    return found[QEMU].private + found[FILE].private


def _must(daemon: Containerd, exec_id: str, script: str) -> None:
    done = daemon.exec("full", exec_id, "sh", "-c", script)
    if done.returncode:
        raise BenchError(f"in the container: {script}: {done.stderr.decode(errors='replace')}")


# Section: what is made of it. Pure.


def grid(title: str, samples: dict[int, Sample]) -> Grid:
    """A column for each number of sandboxes; kinds of process that there were not are left out."""
    rows: dict[str, list[float]] = {}
    for kind in KINDS:
        found = [sample.kinds[kind] for sample in samples.values()]
        if any(entry.pss for entry in found):
            rows[f"{kind}: PSS"] = [tidy(entry.pss) for entry in found]
            rows[f"{kind}: private"] = [tidy(entry.private) for entry in found]
    rows["all: PSS"] = [tidy(sum(entry.pss for entry in sample.kinds.values())) for sample in samples.values()]
    rows["all: private"] = [tidy(total(sample)) for sample in samples.values()]
    rows["shared with the template, all QEMUs"] = [tidy(sample.shared) for sample in samples.values()]
    rows["the template's memory, once for all"] = [tidy(sample.template) for sample in samples.values()]
    return Grid(title, "MiB", [str(number) for number in samples], rows)


def total(sample: Sample) -> float:
    """Private memory of all kinds."""
    return sum(entry.private for entry in sample.kinds.values())


def summary(who: str, holder: str, samples: dict[int, Sample]) -> list[Fact]:
    """What a further sandbox takes, from the second on (of one alone: that one), and its holder's share."""
    most = max(samples)
    last = samples[most].kinds

    def guest(sample: Sample) -> float:
        return sample.kinds[QEMU].private + sample.kinds[FILE].private

    return [
        Fact(f"{who}: private, a further sandbox", tidy(each(samples, total)), "MiB"),
        Fact(f"{who}: QEMU and guest memory private, a further sandbox", tidy(each(samples, guest)), "MiB"),
        Fact(f"{who}: {holder}, PSS", tidy(last[HOLDER].pss / most), "MiB"),
        Fact(f"{who}: {holder} private, a further sandbox", tidy(each(samples, _held)), "MiB"),
    ]


def _held(sample: Sample) -> float:
    return sample.kinds[HOLDER].private


def each(samples: dict[int, Sample], figure: Callable[[Sample], float]) -> float:
    """By how much a figure grows a sandbox, between two (if there were two: else one) and the most."""
    most = max(samples)
    least = 2 if most > 2 and 2 in samples else 1
    if most == least:
        return figure(samples[most])
    return (figure(samples[most]) - figure(samples[least])) / (most - least)


def further(found: list[tuple[str, dict[int, Sample]]]) -> list[Comparison]:
    """Private memory a sandbox, further ones against the first."""
    return [
        compare(
            f"Private memory a sandbox, {name}",
            "MiB",
            "the first",
            {"the first": [total(samples[1])], "a further one": [each(samples, total)]},
        )
        for name, samples in found
    ]

"""Starts of containers, as `make bench` measures them: ways of the same thing in turns, from the command to its end.

The ways are `true` in busybox by `kata run` from a template and by a boot, by `ctr run` with our shim and with runc
through the same containerd, and the *floor*: the same template restored by a bare script without any runtime, which
has the guest's agent run one container of the guest's own image.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace
from tests.helpers.containerd import IMAGE, RUNTIME, Containerd

from kata import paths
from kata.factory.start import restorable
from kata.hypervisor import registry
from kata.osbuilder.assets import present
from kata.sandbox.agent_client import AgentClient
from kata.sandbox.bringup import machine_spec
from kata.sandbox.config import GuestAssets, SandboxConfig
from kata.sandbox.guest import renew
from kata.sandbox.rehearsal import rehearse, run_container

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KATA = [sys.executable, "-I", "-m", "kata.ctl"]
BOOTS_IN = 5
"""One boot for so many of the other ways: it takes as long as all of them."""


def measure(runs: int) -> dict[str, Any]:
    """Milliseconds of each way: median and 99th percentile of `runs`, and its ratio to the floor's median."""
    samples: dict[str, list[float]] = {}
    with _containerd() as containerd:
        ways = _ways(containerd)
        for way in ways.values():
            way()  # templates are made, images unpacked
        for number in range(runs):
            for name, way in ways.items():
                if name != "kata run, booted" or number % BOOTS_IN == 0:
                    begin = time.monotonic()
                    way()
                    samples.setdefault(name, []).append((time.monotonic() - begin) * 1000)
    floor = statistics.median(samples["floor"])
    return {name: _figures(values, floor) for name, values in samples.items()}


def show(result: dict[str, Any]) -> None:
    """The same as a table."""
    print(f"\n{'start to end of true':<28} {'median':>10} {'p99':>10} {'of the floor':>13} {'runs':>5}")
    for name, row in result.items():
        ratio = f"{row['of_floor']:.2f}"
        print(f"{name:<28} {row['median']:>7.0f} ms {row['p99']:>7.0f} ms {ratio:>13} {row['runs']:>5}")


def _figures(values: list[float], floor: float) -> dict[str, float]:
    median = statistics.median(values)
    p99 = statistics.quantiles(values, n=100, method="inclusive")[98] if len(values) > 1 else median
    return {
        "median": round(median, 1),
        "p99": round(p99, 1),
        "of_floor": round(median / floor, 3),
        "runs": len(values),
    }


def _ways(containerd: Containerd) -> dict[str, Callable[[], None]]:
    return {
        "floor": _floor,
        "kata run": lambda: _run([*KATA, "run", "--rm", "busybox", "true"]),
        "kata run, booted": lambda: _run([*KATA, "run", "--rm", "--no-template", "busybox", "true"]),
        "ctr run, our shim": lambda: _ctr(containerd, RUNTIME),
        "ctr run, runc": lambda: _ctr(containerd, "io.containerd.runc.v2"),
    }


def _ctr(containerd: Containerd, runtime: str) -> None:
    containerd.ctr("run", "--rm", "--runtime", runtime, IMAGE, "bench", "true")


def _run(argv: list[str]) -> None:
    subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)


def _floor() -> None:
    """Restore, connect, make the guest one of its own, run a container in it, end QEMU."""
    assets = present(paths.assets_dir())
    config = SandboxConfig(
        id="bench-floor", hostname="", assets=GuestAssets(assets.kernel, assets.initrd, assets.image), template=True
    )
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, ExitStack() as undo:
        spec = restorable(machine_spec(config, folder), 90.0, undo, rehearse, lambda why: sys.exit(f"bench: {why}"))
        machine = registry.create("qemu", replace(spec, directory=folder))
        undo.callback(machine.close)
        machine.boot()
        with closing(AgentClient.connect(machine.agent_address(), 30.0, threading.Event())) as agent:
            renew(agent)
            run_container(agent)


@contextmanager
def _containerd() -> Iterator[Containerd]:
    with tempfile.TemporaryDirectory(prefix="kb-", dir="/run") as folder:
        made = Containerd(Path(folder))
        made.start()
        try:
            made.import_image()
            yield made
        finally:
            made.stop()

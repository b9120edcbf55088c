"""`make bench`: what a container in a virtual machine costs here, as JSON and as a table.

Measured: the phases of a cold start (median and slowest), memory of an idle guest seen from inside and from the
host, sizes of what a VM boots from, the agent by itself (`bench_agent.py`), and streams (`bench_streams.py`). Machines
differ and are noisy, so the numbers describe this machine on this day; nothing asserts them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from kata import paths
from kata.version import __version__

# An isolated interpreter (-I) does not look beside the script that it runs.
sys.path.append(str(Path(__file__).parents[1]))
from tools import bench_agent, bench_start, bench_streams

KATA = [sys.executable, "-I", "-m", "kata.ctl"]


def main() -> int:
    """Run the benchmarks; exit code 0 unless a container failed."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--runs", type=int, default=20, help="starts to measure (default: 20)")
    parser.add_argument("--output", type=Path, default=paths.data_dir() / "bench.json", help="where the JSON goes")
    args = parser.parse_args()
    kata("setup")
    result = {
        "version": __version__,
        "machine": machine(),
        "assets_bytes": assets(),
        "starts_ms": bench_start.measure(args.runs),
        "phases_ms": phases(args.runs),
        "idle": idle_memory(),
        "agent": bench_agent.measure(),
        "streams": bench_streams.measure(),
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")
    show(result)
    print(f"\nwritten to {args.output}")
    return 0


def machine() -> dict[str, Any]:
    """What this was measured on."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        "unknown",
    )
    qemu = subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, text=True, check=True).stdout
    return {
        "cpu": model,
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "qemu": qemu.splitlines()[0].removeprefix("QEMU emulator version "),
    }


def assets() -> dict[str, int]:
    """Sizes of kernel, initrd and image."""
    names = ("vmlinuz", "initrd.img", "kata-containers.img")
    return {name: (paths.assets_dir() / name).stat().st_size for name in names if (paths.assets_dir() / name).exists()}


def phases(runs: int) -> dict[str, dict[str, float]]:
    """Each phase of `kata run busybox true` from a template and booted, in turns: median, milliseconds.

    One boot for each `BOOTS_IN` of the others.
    """
    samples: dict[str, dict[str, list[float]]] = {"template": {}, "booted": {}}
    for number in range(runs):
        for way, options in (("template", ()), ("booted", ("--no-template",))):
            if way == "template" or number % bench_start.BOOTS_IN == 0:
                for phase, milliseconds in _phases(f"bench-{os.getpid()}-{number}-{way}", options).items():
                    samples[way].setdefault(phase, []).append(milliseconds)
    return {
        way: {phase: round(statistics.median(values), 1) for phase, values in found.items()}
        for way, found in samples.items()
    }


def _phases(name: str, options: tuple[str, ...]) -> dict[str, float]:
    kata("run", "--name", name, *options, "busybox", "true")
    found: dict[str, float] = inspect(name)["phases_ms"]
    kata("rm", name)
    return found


def idle_memory() -> dict[str, float]:
    """Memory of a guest whose container sleeps, in MiB: used inside, and the host's processes by PSS."""
    name = f"bench-{os.getpid()}-idle"
    kata("run", "-d", "--name", name, "busybox", "sleep", "1000")
    try:
        time.sleep(2)
        info = dict(line.split(":", 1) for line in kata("exec", name, "cat", "/proc/meminfo").splitlines())
        total, available = (int(info[key].split()[0]) / 1024 for key in ("MemTotal", "MemAvailable"))
        vmm = next(pid for pid, line in command_lines() if "qemu-system" in line and inspect(name)["id"] in line)
        supervisor = int(Path(f"/proc/{vmm}/stat").read_text().rpartition(")")[2].split()[1])
        return {
            "guest_used_mib": round(total - available, 1),
            "guest_total_mib": round(total, 1),
            "vmm_pss_mib": pss(vmm),
            "supervisor_pss_mib": pss(supervisor),
        }
    finally:
        kata("rm", "-f", name)


def inspect(name: str) -> dict[str, Any]:
    """What `kata ps` knows of one container."""
    records = [json.loads(line) for line in kata("ps", "-a", "--json").splitlines()]
    found: dict[str, Any] = next(record for record in records if record["name"] == name)
    return found


def command_lines() -> list[tuple[int, str]]:
    """Every process with its command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found.append((int(entry.name), (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()))
            except OSError:
                continue
    return found


def pss(pid: int) -> float:
    """Proportional set size in MiB (Documentation/filesystems/proc.rst, smaps_rollup)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return round(int(line.split()[1]) / 1024, 1)
    raise ValueError(f"no Pss for process {pid}")


def kata(*words: str) -> str:
    """Run the command; its failure ends the benchmark."""
    done = subprocess.run([*KATA, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"bench: kata {' '.join(words)} failed with exit code {done.returncode}")
    return done.stdout


def show(result: dict[str, Any]) -> None:
    """The same as the JSON, for people."""
    bench_start.show(result["starts_ms"])
    template, booted = result["phases_ms"]["template"], result["phases_ms"]["booted"]
    print(f"\n{'phase of kata run':<28} {'template':>10} {'booted':>10}")
    for phase in template:
        print(f"{phase:<28} {template[phase]:>7.0f} ms {booted.get(phase, 0.0):>7.0f} ms")
    print()
    for name, size in result["assets_bytes"].items():
        print(f"{name:<24} {size / 2**20:>8.1f} MiB")
    print()
    for name, mib in result["idle"].items():
        print(f"{name:<24} {mib:>8.1f} MiB")
    bench_agent.show(result["agent"])
    bench_streams.show(result["streams"])


if __name__ == "__main__":
    sys.exit(main())

"""`kata demo`: run busybox in a virtual machine and show what happened. This is what `make run` does."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

HELP = "run a first container and show guest and host side by side"


def configure(parser: argparse.ArgumentParser) -> None:
    """The one option is for programs."""
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def execute(args: argparse.Namespace) -> int:
    """Prepare, run `kata run` as a user would, read the record it left, remove it."""
    from kata.ctl import output
    from kata.ctl.prepare import prepare
    from kata.hypervisor.qemu.probe import choose_accelerator
    from kata.sandbox.store import Store
    from kata.supervisor.remove import remove

    begin = time.monotonic()
    with output.steps("setting up") as progress:
        assets = prepare(progress)
        progress("asking how guests can run here")
        choice = choose_accelerator(assets.kernel)
    prepared = time.monotonic()
    name = f"demo-{os.getpid()}"
    script = "echo Hello from a container in its own virtual machine; uname -r; nproc; grep MemTotal /proc/meminfo"
    store = Store()
    try:
        said = _kata("run", "--name", name, "busybox", "sh", "-c", script)
        ran = time.monotonic()
        phases = dict(store.find(name).phases)
    finally:
        remove(store, name, force=True)
    lines = said.splitlines()
    findings: dict[str, object] = {
        "output": lines[0] if lines else "",
        "guest_kernel": lines[1] if len(lines) > 1 else "",
        "host_kernel": os.uname().release,
        "accelerator": choice.accelerator,
        "accelerator_reason": choice.reason,
        "phases_ms": {"setup": _ms(prepared - begin), **phases, "run (whole command)": _ms(ran - prepared)},
    }
    if args.json:
        output.json_line(findings)
    else:
        _show(findings)
    return 0


def _kata(*words: str) -> str:
    """Run ourselves as a user would; our standard error is theirs."""
    from kata.errors import KataError

    argv = [sys.executable, "-I", "-m", "kata.ctl", *words]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise KataError(f"kata {words[0]} failed with exit code {done.returncode}", hint="see what it said above")
    return done.stdout


def _show(findings: dict[str, object]) -> None:
    phases = findings.pop("phases_ms")
    assert isinstance(phases, dict)
    print()
    print(f"  container says   {findings['output']}")
    print(f"  guest kernel     {findings['guest_kernel']}")
    print(f"  host kernel      {findings['host_kernel']}")
    print(f"  accelerator      {findings['accelerator']} ({findings['accelerator_reason']})")
    print()
    for phase, milliseconds in phases.items():
        print(f"  {phase:<20} {milliseconds / 1000:8.2f} s")
    print()
    print(f"Now try:  {_command()} run --rm -it busybox sh")


def _command() -> str:
    """How to call us from here: in a checkout `kata` is not on PATH."""
    script = Path(sys.prefix).parent / "bin/kata"
    if not script.is_file():
        return "kata"
    return os.path.relpath(script) if Path.cwd() == script.parents[1] else os.fspath(script)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)

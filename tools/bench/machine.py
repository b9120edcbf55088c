"""What a part is measured on: processor, kernel, QEMU, accelerator, load, and of which revision."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from pathlib import Path

from tools.bench.report import Circumstances
from tools.bench.world import need

from kata import paths
from kata.hypervisor.qemu.probe import choose_accelerator

ROOT = Path(__file__).parents[2]


def circumstances() -> Circumstances:
    """As things are now."""
    return Circumstances(
        revision=revision(),
        date=time.strftime("%Y-%m-%d", time.gmtime()),
        load=float(Path("/proc/loadavg").read_text().split()[0]),
        machine=machine(),
    )


def machine() -> dict[str, str]:
    """What does not change from part to part."""
    need("qemu-system-x86_64")
    qemu = subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, text=True, check=True).stdout
    return {
        "processor": f"{processor(Path('/proc/cpuinfo').read_text())}, {os.cpu_count()} cores",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "qemu": qemu.splitlines()[0].removeprefix("QEMU emulator version ").split()[0],
        "accelerator": choose_accelerator(os.fspath(paths.assets_dir() / "vmlinuz")).accelerator,
    }


def processor(cpuinfo: str) -> str:
    """The model's name, in the words of /proc/cpuinfo."""
    found = re.search(r"^model name\s*:\s*(.*)$", cpuinfo, re.MULTILINE)
    return found[1] if found else "unknown processor"


def revision() -> str:
    """Git's short name of what is checked out, with a plus when files differ from it; empty outside of a checkout."""
    words = ["git", "-C", os.fspath(ROOT), "describe", "--always", "--dirty=+", "--exclude=*"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stdout.strip()

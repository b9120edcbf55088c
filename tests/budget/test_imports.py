"""What is imported on the start path. Each module costs time and memory in every guest and every sandbox.

Each case is a fresh interpreter without site, the way guests run the agent; the figures that it prints (modules,
resident memory) are for reading, since other versions of Python differ.
"""

from __future__ import annotations

import json
import subprocess
import sysconfig
from pathlib import Path

import pytest

PYTHON = "/usr/bin/python3.11"
ROOT = Path(__file__).parents[2]

HEAVY = {"asyncio", "concurrent", "dataclasses", "email", "http", "logging", "multiprocessing", "ssl", "unittest"}
"""Forbidden everywhere: each costs more than a megabyte or drags in one that does."""

GUEST = HEAVY | {"argparse", "inspect", "msgspec", "pathlib", "rich", "subprocess", "tempfile", "tomllib", "urllib"}
"""The agent's userland holds a choice of files, and the guest's memory is the user's."""

HOST = HEAVY | {"jeepney", "rich", "tomllib"}
"""One process for each sandbox. pathlib (with urllib.parse) and msgspec are what host rooms are made with."""

FIRST_ANSWER = {"datetime", "decimal", "hypothesis", "inspect", "msgspec", "pathlib", "random", "shutil", "subprocess"}
FIRST_ANSWER |= {"tempfile", "urllib"}
"""What a shim does without until it has answered for the first time; the sandbox's rooms come after."""

BEFORE_ASKING = {"google", "threading", "typing", "socket", "json", "hashlib", "enum", "ctypes", "re"}
"""What a shim does without that a zygote may fork: its own start is all that is left of the time."""

CASES = [
    ("kata.agent.__main__", GUEST),
    ("kata.agent.policy.decide", GUEST),
    ("kata.linux.syscalls", GUEST),
    ("kata.oci.convert", GUEST),
    ("kata.protocol.server", GUEST),
    ("kata.protocol.client", GUEST),
    ("kata.supervisor.supervise", HOST),
    ("kata.hypervisor.qemu.machine", HOST),
    ("kata.storage.virtiofs", HOST),
    ("kata.cgroups.sandbox", HOST),
    ("kata.cgroups.scope", HOST),
    ("kata.config", HOST | {"argparse", "difflib", "hashlib", "msgspec", "subprocess", "tempfile"}),
    ("kata.shim.__main__", HOST | FIRST_ANSWER | BEFORE_ASKING),
    ("kata.zygote.serve", HOST | FIRST_ANSWER | {"google"}),
    ("kata.shim.start", HOST | FIRST_ANSWER | {"google", "threading"}),
    ("kata.shim.serve", HOST | FIRST_ANSWER),
    ("kata.network.scan", HOST | {"subprocess", "pathlib"}),
    ("kata.network.models.tcfilter", HOST | {"subprocess", "pathlib"}),
    ("kata.network.attachment", HOST | {"subprocess", "pathlib"}),
    ("kata.network.cleanup", HOST | {"subprocess", "pathlib"}),
    ("kata.ctl.__main__", HOST | {"msgspec", "pathlib", "subprocess", "google"}),
]

PROGRAM = """
import sys
sys.path[:0] = sys.argv[2:]
__import__(sys.argv[1])
loaded = sorted(sys.modules)
with open("/proc/self/status") as status:
    rss = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
import json
print(json.dumps([loaded, rss]))
"""


@pytest.mark.parametrize(("module", "forbidden"), CASES, ids=[case[0] for case in CASES])
def test_start_path_imports(module: str, forbidden: set[str], capsys: pytest.CaptureFixture[str]) -> None:
    loaded, rss = _load(module)
    with capsys.disabled():
        print(f"\n{module}: {len(loaded)} modules, {rss / 1024:.1f} MiB resident ", end="")
    found = sorted(name for name in loaded if name.partition(".")[0] in forbidden)
    if found:
        pytest.fail(f"importing {module} also imports {', '.join(found)}", pytrace=False)


def test_the_sandbox_process_does_not_load_the_agent() -> None:
    loaded, _ = _load("kata.supervisor.supervise")
    assert [name for name in loaded if name.startswith("kata.agent")] == []


def test_the_agent_starts_without_its_policy_room() -> None:
    loaded, _ = _load("kata.agent.__main__")
    assert [name for name in loaded if name.startswith("kata.agent.policy")] == []


def test_the_agent_does_not_load_what_only_the_host_does_to_networks() -> None:
    loaded, _ = _load("kata.agent.interfaces")
    assert "kata.linux.rtnetlink.links" in loaded
    host = {"tc", "newlinks", "host", "notify", "netns", "tuntap", "ethtool"}
    assert [name for name in loaded if name.startswith("kata.linux") and name.rpartition(".")[2] in host] == []


def _load(module: str) -> tuple[list[str], int]:
    """Names of the modules that importing `module` loads, and the process's resident memory in KiB."""
    where = [str(ROOT / "src"), sysconfig.get_path("purelib")]
    done = subprocess.run(
        [PYTHON, "-I", "-S", "-c", PROGRAM, module, *where], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode:
        pytest.fail(f"{module} cannot be imported by {PYTHON} -I -S:\n{done.stderr}", pytrace=False)
    loaded, rss = json.loads(done.stdout)
    return loaded, rss

"""`kata-agent-ctl --sandbox`: requests to the agent of a running sandbox, through the process that holds it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata.version import __version__
from tests.helpers.cli import kata, leftovers, ps

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.vm, pytest.mark.root, pytest.mark.usefixtures("busybox")]


@pytest.fixture
def sandbox() -> Iterator[str]:
    """A running sandbox, by its name; nothing of it is left."""
    kata("run", "-d", "--name", "asked", "busybox", "sh", "-c", "echo started; read x; sleep 1000", check=True)
    yield "asked"
    kata("rm", "-f", "asked")
    assert leftovers() == []


def ask(sandbox: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-m", "kata.agentctl", "--sandbox", sandbox, *words]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_the_agent_of_a_sandbox(sandbox: str) -> None:
    details = ask(sandbox, "--json", "GetGuestDetails", "mem_block_size=true")
    said = json.loads(details.stdout)
    assert (said["agent_details"]["version"], said["agent_details"]["init_daemon"]) == (__version__, True)
    assert "  address: 10.0.2.15\n" in ask(sandbox, "ListInterfaces").stdout.replace("    ", "  ")

    [record] = ps()
    cid = record["id"]
    process = json.dumps({"args": ["sh", "-c", "read x; echo got $x; exit 7"], "cwd": "/", "env": ["PATH=/bin"]})
    life = [
        *("-c", f"set cid {cid}", "-c", f"ExecProcess exec_id=mine process={process}"),
        *("-c", "WriteStdin exec_id=mine data=it", "-c", "CloseStdin exec_id=mine"),
        *("-c", "ReadStdout exec_id=mine len=100", "-c", "expect status=7 WaitProcess exec_id=mine"),
        *("-c", "expect NOT_FOUND WaitProcess exec_id=never", "-c", "repeat 20 Check"),
    ]
    done = ask(sandbox, *life)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["len: 2", "got it", "status: 7", *["status: SERVING"] * 20]

    late = ask(sandbox, "--timeout", "0.3", "WaitProcess", f"cid={cid}")
    assert (late.returncode, late.stderr.split(":")[1]) == (1, " DEADLINE_EXCEEDED")
    assert kata("exec", sandbox, "echo", "undisturbed", check=True).stdout == b"undisturbed\n"

    check_policy(sandbox)
    ask(sandbox, "DestroySandbox")
    wait = kata("logs", "-f", sandbox, check=True)
    assert wait.stdout == b"started\n"
    gone = ask(sandbox, "Check")
    assert gone.returncode == 1
    assert "not running" in gone.stderr


def check_policy(sandbox: str) -> None:
    """A policy with conditions decides about a process in the guest, and says why it does not want another."""
    sample = ROOT / "docs/policies/allow-all-except-exec-process.rego"
    rule = 'ExecProcessRequest if { print("asked for", input.process.Args); input.process.Args[1] == "fine" }\n'
    policy = ask(sandbox, "SetPolicy", f"policy={sample.read_text()}{rule}")
    assert (policy.returncode, policy.stderr) == (0, "")
    assert kata("exec", sandbox, "echo", "fine", check=True).stdout == b"fine\n"
    denied = kata("exec", sandbox, "echo", "bad")
    assert denied.returncode != 0
    assert b'asked for ["echo", "bad"]' in denied.stderr
    refused = ask(sandbox, "SetPolicy", "policy=package agent_policy\nX if unknown(1)")
    assert "line 2 is not understood: there is no function unknown" in refused.stderr

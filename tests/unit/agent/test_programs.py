"""Helper programs through a real Reaper, and the packet filter's use of them with programs of our own."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata.agent import iptables, programs
from kata.agent.errors import AgentError, BadRequest, TimedOut, Unsupported
from kata.linux.reaper import Reaper


@pytest.fixture
def reaper() -> Iterator[Reaper]:
    made = Reaper()
    yield made
    made.close()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where programs are looked for."""
    monkeypatch.setattr(programs, "find", lambda name: find(name, [str(tmp_path)]))
    return tmp_path


find = programs.find


def script(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def test_input_output_and_exit_code(reaper: Reaper) -> None:
    data = os.urandom(300_000)
    assert programs.run(reaper, ["/bin/cat"], data, timeout=10, limit=1 << 20) == (0, data, "")
    failed = programs.run(reaper, ["/bin/sh", "-c", "echo why >&2; exit 3"], b"", timeout=10, limit=10)
    assert failed == (3, b"", "why")


def test_time_and_size_have_limits(reaper: Reaper) -> None:
    began = time.monotonic()
    with pytest.raises(TimedOut, match="sleep did not end"):
        programs.run(reaper, ["/bin/sleep", "100"], b"", timeout=0.2, limit=10)
    assert time.monotonic() - began < 5
    with pytest.raises(AgentError, match="more than 10 bytes"):
        programs.run(reaper, ["/bin/cat"], b"x" * 11, timeout=10, limit=10)


def test_no_descriptor_is_left(reaper: Reaper) -> None:
    before = len(os.listdir("/proc/self/fd"))
    programs.run(reaper, ["/bin/true"], b"", timeout=10, limit=10)
    with pytest.raises(FileNotFoundError):
        programs.run(reaper, ["/no/such"], b"", timeout=10, limit=10)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(("ipv6", "name"), [(False, "iptables"), (True, "ip6tables")])
def test_the_family_chooses_the_program(reaper: Reaper, folder: Path, ipv6: bool, name: str) -> None:
    script(folder, f"{name}-save", "echo rules")
    script(folder, f"{name}-restore", 'echo "$@"; cat')
    assert iptables.save(reaper, ipv6=ipv6) == b"rules\n"
    assert iptables.restore(reaper, b"*filter\nCOMMIT\n", ipv6=ipv6) == b"--wait 5\n*filter\nCOMMIT\n"
    with pytest.raises(Unsupported, match="the guest has no ip"):
        iptables.save(reaper, ipv6=not ipv6)


def test_what_the_program_says_reaches_the_caller(reaper: Reaper, folder: Path) -> None:
    script(folder, "iptables-restore", "echo 'line 2 failed' >&2; exit 1")
    with pytest.raises(AgentError) as caught:
        iptables.restore(reaper, b"nonsense", ipv6=False)
    assert caught.value.detail == "line 2 failed"
    with pytest.raises(BadRequest, match="are the limit"):
        iptables.restore(reaper, bytes(iptables.LIMIT + 1), ipv6=False)

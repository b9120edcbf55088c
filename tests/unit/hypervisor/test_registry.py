"""Drivers are found by name, and loaded only then."""

from __future__ import annotations

import subprocess
import sys

import pytest

from kata.hypervisor import registry
from kata.hypervisor.errors import HypervisorError, SpecError
from kata.hypervisor.machine import MachineSpec
from kata.hypervisor.qemu.machine import QemuMachine, State

SPEC = MachineSpec(sandbox_id="a", directory="/nonexistent", kernel="/nonexistent/k", initrd=None, image=None)


def test_qemu_is_there() -> None:
    machine = registry.create("qemu", SPEC)
    assert isinstance(machine, QemuMachine)
    assert (machine.pid, machine.wait(0), machine.console_tail()) == (0, None, "")


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(SpecError) as caught:
        registry.create("xen", SPEC)
    assert "qemu" in caught.value.hint


def test_wrong_order_is_a_sentence() -> None:
    machine = QemuMachine(SPEC)
    with pytest.raises(HypervisorError, match="not booted"):
        _ = machine.qmp
    with pytest.raises(SpecError, match="no file /nonexistent/k"):
        machine.boot()
    assert machine.state is State.CLOSED
    with pytest.raises(HypervisorError, match="boots once; this one is closed"):
        machine.boot()
    with pytest.raises(HypervisorError, match="no disk with the serial 'x'"):
        machine.disk_address("x")


def test_the_start_path_imports_nothing_heavy() -> None:
    # msgspec brings inspect, and pathlib brings urllib.parse, where they do; the rest is ours to keep out.
    heavy = {"asyncio", "ssl", "dataclasses", "logging", "http", "concurrent.futures"}
    code = f"import sys; import kata.hypervisor.qemu.machine; print(*{heavy} & set(sys.modules))"
    env = {"PYTHONPATH": ":".join(sys.path)}
    out = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True)
    assert (out.returncode, out.stdout.split()) == (0, []), out.stderr.decode()

"""The accelerator probe with the real kernel and the real /dev/kvm of whatever host this runs on."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest

from kata import paths
from kata.hypervisor.machine import MachineSpec
from kata.hypervisor.qemu.machine import QemuMachine
from kata.hypervisor.qemu.probe import TIME_LIMIT, AcceleratorChoice, choose_accelerator

pytestmark = [pytest.mark.vm, pytest.mark.root]


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    kernel = str(paths.assets_dir() / "vmlinuz")
    monkeypatch.setenv("KATA_DATA_DIR", str(tmp_path / "data"))
    return kernel


def test_the_answer_is_true_and_remembered(kernel: str, tmp_path: Path) -> None:
    start = time.monotonic()
    first = choose_accelerator(kernel)
    assert time.monotonic() - start < TIME_LIMIT + 3
    second = choose_accelerator(kernel)
    assert (first.accelerator, first.reason) == (second.accelerator, second.reason)
    assert second.cached is os.path.exists("/dev/kvm")
    machine = QemuMachine(MachineSpec(sandbox_id="t", directory=str(tmp_path), kernel=kernel, initrd=None, image=None))
    with machine:
        machine.boot()
        assert machine.accelerator == first.accelerator
        assert machine.wait(60) == 0, "what the probe chose does not boot"


def test_the_reason_says_what_was_found(kernel: str) -> None:
    choice = choose_accelerator(kernel)
    if choice.accelerator == "kvm":
        assert choice.reason == "the guest kernel boots under KVM"
    elif os.path.exists("/dev/kvm"):
        assert choice.reason.startswith("/dev/kvm is there but does not work: ")
        assert any(word in choice.reason for word in ("QEMU stops with: ", "QEMU reports: ", "did not come to its end"))
    else:
        assert choice.reason == "this host has no /dev/kvm"


def test_two_at_once_leave_one_whole_file(kernel: str, tmp_path: Path) -> None:
    choices: list[AcceleratorChoice] = []
    threads = [threading.Thread(target=lambda: choices.append(choose_accelerator(kernel))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len({choice.accelerator for choice in choices}) == 1
    files = list((tmp_path / "data" / "cache").glob("*"))
    assert len(files) == (1 if os.path.exists("/dev/kvm") else 0)
    assert all(json.loads(file.read_text())["accelerator"] == choices[0].accelerator for file in files)

"""What a trial boot means, and when its answer may be used again. The trial itself: tests/vm/test_qemu_probe.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kata.hypervisor.errors import SpecError
from kata.hypervisor.qemu import probe
from kata.hypervisor.qemu.probe import AcceleratorChoice, _Outcome, choose_accelerator, judge

BOOTED = "[    0.000000] Linux version 6.12\n[ 1.0] Kernel panic - not syncing\n"


@pytest.mark.parametrize(
    ("outcome", "accelerator", "words"),
    [
        (_Outcome(0, BOOTED, ""), "kvm", "boots under KVM"),
        (_Outcome(0, "", ""), "tcg", "before the guest kernel said anything"),
        (_Outcome(None, BOOTED, ""), "tcg", "within 10 s"),
        (_Outcome(None, BOOTED, "KVM internal error. Suberror: 1\nemulation failure\nRAX=0\n"), "tcg", "Suberror: 1"),
        (_Outcome(-6, "", "qemu: error\nqemu: Assertion `x' failed.\n"), "tcg", "Assertion `x' failed."),
        (_Outcome(1, "", "Could not access KVM kernel module: \x1b[1mdenied"), "tcg", "module: denied"),
        (_Outcome(-9, "", ""), "tcg", "status -9"),
    ],
)
def test_judge(outcome: _Outcome, accelerator: str, words: str) -> None:
    choice = judge(outcome)
    assert choice.accelerator == accelerator
    assert words in choice.reason


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("KATA_DATA_DIR", str(tmp_path / "data"))
    path = tmp_path / "vmlinuz"
    path.write_bytes(b"kernel")
    return str(path)


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Counts the trial boots, which are answered without QEMU."""
    made: list[str] = []

    def try_kvm(path: str, _binary: str, _limit: float) -> _Outcome:
        made.append(path)
        return _Outcome(0, BOOTED, "")

    monkeypatch.setattr(probe, "_try_kvm", try_kvm)
    return made


def choose(kernel: str) -> AcceleratorChoice:
    return choose_accelerator(kernel, device="/dev/null")


def test_an_answer_is_remembered(kernel: str, trials: list[str]) -> None:
    assert [choose(kernel).cached for _ in range(3)] == [False, True, True]
    assert len(trials) == 1
    assert choose(kernel) == AcceleratorChoice("kvm", "the guest kernel boots under KVM", cached=True)


def test_another_kernel_file_is_another_question(kernel: str, trials: list[str]) -> None:
    choose(kernel)
    Path(kernel).write_bytes(b"kernel 2")
    assert not choose(kernel).cached
    assert len(trials) == 2


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"null", b"[" * 100_000, b'{"accelerator": "kvm"}', b"\xff"])
def test_a_damaged_cache_is_ignored(kernel: str, trials: list[str], tmp_path: Path, damage: bytes) -> None:
    choose(kernel)
    (cache,) = (tmp_path / "data" / "cache").iterdir()
    cache.write_bytes(damage)
    assert not choose(kernel).cached
    assert choose(kernel).cached
    assert len(trials) == 2


@pytest.mark.parametrize("changed", ["boot_id", "qemu", "kernel"])
def test_every_part_of_the_identity_counts(kernel: str, trials: list[str], tmp_path: Path, changed: str) -> None:
    choose(kernel)
    (cache,) = (tmp_path / "data" / "cache").iterdir()
    record = json.loads(cache.read_text())
    record["identity"][changed] = "other"
    cache.write_text(json.dumps(record))
    assert not choose(kernel).cached
    assert len(trials) == 2


def test_a_cache_that_cannot_be_written_costs_only_time(kernel: str, trials: list[str], tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"a file where the directory should be")
    assert [choose(kernel).accelerator for _ in range(2)] == ["kvm", "kvm"]
    assert len(trials) == 2


def test_without_the_device_nothing_is_tried(kernel: str, trials: list[str]) -> None:
    choice = choose_accelerator(kernel, device="/nonexistent/kvm")
    assert (choice.accelerator, trials) == ("tcg", [])
    assert "/nonexistent/kvm" in choice.reason


def test_a_missing_kernel_is_said(trials: list[str]) -> None:
    with pytest.raises(SpecError, match="cannot be read"):
        choose("/nonexistent/vmlinuz")

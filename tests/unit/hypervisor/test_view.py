"""The paths that QEMU is shown, in the order in which they can be shown."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from kata.hypervisor.machine import MachineSpec
from kata.hypervisor.qemu.view import places


def shown(program: str) -> list[str]:
    hardware = SimpleNamespace(random_source="", firmware="")
    spec = SimpleNamespace(hardware=hardware, kernel="/tmp/a/vmlinuz", initrd="", network=None, host_devices=())
    return list(places(cast("MachineSpec", spec), program, "tcg"))


@pytest.mark.parametrize(
    ("program", "folder"), [("/tmp/mine/qemu", "/tmp/mine"), ("/opt/q/bin/qemu", "/opt/q"), ("/srv/qemu", "/srv")]
)
def test_a_program_of_the_operators_is_shown_with_what_is_beside_it(program: str, folder: str) -> None:
    """And before single files: where a file's folder was made first, none could be shown in its place."""
    found = shown(program)
    assert found.index(folder) < found.index("/tmp/a/vmlinuz")
    assert "/tmp" not in found and "/" not in found


def test_what_is_behind_a_link_is_shown_too(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/qemu").touch()
    os.symlink("real/qemu", tmp_path / "qemu")
    assert {str(tmp_path), str(tmp_path / "real")} <= set(shown(str(tmp_path / "qemu")))


def test_a_program_of_the_hosts_needs_nothing_more() -> None:
    assert shown("qemu-system-x86_64") == shown("/usr/bin/env")

"""Whose the nodes of VFIO groups are while QEMU starts, and how much it may lock. Folders stand for /sys and /dev."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from kata.hypervisor.errors import HypervisorError
from kata.hypervisor.machine import HostDevice, MachineSpec
from kata.hypervisor.qemu.vfio import MIB, locked_memory, open_groups

DEVICES = (HostDevice("0000:5e:00.1"), HostDevice("0000:5e:00.2"), HostDevice("0000:5e:00.3"))


def machine(**changes: Any) -> MachineSpec:
    values = {"sandbox_id": "a", "directory": "/d", "kernel": "/k", "initrd": None, "image": "/i", **changes}
    return MachineSpec(**values)


@pytest.fixture
def host(tmp_path: Path) -> dict[str, Any]:
    """Two devices in the group 7, one in 9."""
    for device, group in zip(DEVICES, (7, 7, 9), strict=True):
        folder = tmp_path / "sys/bus/pci/devices" / device.address
        folder.mkdir(parents=True)
        (folder / "iommu_group").symlink_to(f"../../../../kernel/iommu_groups/{group}")
    (tmp_path / "dev/vfio").mkdir(parents=True)
    for group in (7, 9):
        (tmp_path / "dev/vfio" / str(group)).touch()
    return {"sysfs": str(tmp_path / "sys"), "dev": str(tmp_path / "dev")}


def owners(host: dict[str, Any]) -> dict[str, int]:
    return {path.name: path.stat().st_uid for path in Path(host["dev"], "vfio").iterdir()}


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")
def test_the_groups_are_qemus_while_it_starts(host: dict[str, Any]) -> None:
    with open_groups(machine(host_devices=DEVICES[:2], uid=77, gid=77), **host):
        assert owners(host) == {"7": 77, "9": 0}
    assert owners(host) == {"7": 0, "9": 0}
    with pytest.raises(ZeroDivisionError), open_groups(machine(host_devices=DEVICES, uid=77, gid=77), **host):
        assert owners(host) == {"7": 77, "9": 77}
        Path(host["dev"], "vfio/9").unlink()  # given back meanwhile
        raise ZeroDivisionError
    assert owners(host) == {"7": 0}


def test_nothing_is_given_to_a_qemu_of_our_own_user(host: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "chown", None)
    with open_groups(machine(host_devices=DEVICES), **host):
        pass
    with open_groups(machine(uid=77, gid=77), sysfs="/nonexistent", dev="/nonexistent"):
        pass


def test_a_host_without_an_iommu(host: dict[str, Any]) -> None:
    spec = machine(host_devices=(HostDevice("0000:5e:00.9"),))
    with pytest.raises(HypervisorError, match="is in no IOMMU group") as caught, open_groups(spec, **host):
        pass
    assert "intel_iommu=on" in caught.value.hint


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")
def test_a_group_that_vfio_does_not_have(host: dict[str, Any]) -> None:
    Path(host["dev"], "vfio/9").unlink()
    spec = machine(host_devices=DEVICES, uid=77, gid=77)
    with pytest.raises(HypervisorError, match="vfio/9 cannot be used: No such file"), open_groups(spec, **host):
        pass
    assert owners(host) == {"7": 0}


def test_memory_that_may_be_locked() -> None:
    assert locked_memory(machine()) == 0
    assert locked_memory(machine(host_devices=DEVICES)) == (256 + 1024) * MIB
    grows = machine(host_devices=DEVICES, max_memory_mib=2048, memory_slots=4)
    assert locked_memory(grows) == (2048 + 1024) * MIB

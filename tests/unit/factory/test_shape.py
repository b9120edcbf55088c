"""Which machines go on from a template, and that an instance has the devices of its template."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from kata.factory.shape import ROOT_PORTS, SPARE_DISKS, obstacle, prewired, template_of
from kata.hypervisor.machine import (
    Disk,
    MachineSpec,
    NinePDirectory,
    PublishedPort,
    Saved,
    SharedDirectory,
    TapNic,
    UserNetwork,
)
from kata.hypervisor.qemu.command_line import Resolved, command_line

SPEC = MachineSpec(
    sandbox_id="abc", directory="/run/vc/vm/abc", kernel="/k", initrd="/r", image="/i", accelerator="tcg"
)
MAC = "02:aa:bb:cc:dd:ee"
SANDBOXES: list[dict[str, Any]] = [
    {},
    {"disks": (Disk("/rootfs", "rootfs"),), "network": UserNetwork(MAC, (PublishedPort(8080, 80),))},
    {"nics": (TapNic(MAC, (9,), mtu=9000),), "uid": 70000, "gid": 70000, "max_memory_mib": 4096, "memory_slots": 4},
    {"debug_console": True, "balloon": True, "shares": (SharedDirectory("kataShared", "/s"),)},
    {"ninep": (NinePDirectory("kataShared", proxy_fd=987654),)},
    {"shares": (SharedDirectory("one", "/s"),), "ninep": (NinePDirectory("two", "/s"), NinePDirectory("three"))},
]


def with_spec(**changes: Any) -> MachineSpec:
    return msgspec.structs.replace(SPEC, **changes)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"machine_type": "microvm"}, "microvm"),
        ({"image": None}, "image"),
        ({"preallocate": True}, "at once"),
        ({"hugepages": True}, "huge pages"),
        ({"iommu": True}, "IOMMU"),
        ({"disks": tuple(Disk(f"/{n}", f"d{n}") for n in range(SPARE_DISKS + 1))}, "too many"),
        ({"disks": (Disk("/d", "d", readonly=False),)}, "disks"),
        ({"disks": (Disk("/d", "d", driver="nvdimm"),)}, "disks"),
        ({"nics": (TapNic(MAC, (8, 9)),)}, "queues"),
    ],
)
def test_what_has_to_boot_says_why(changes: dict[str, Any], word: str) -> None:
    assert word in obstacle(with_spec(**changes))


@pytest.mark.parametrize("changes", SANDBOXES)
def test_an_instance_has_the_devices_of_its_template(changes: dict[str, Any]) -> None:
    """QEMU matches saved state by device and place, so these are the same words but for what is behind them."""
    assert obstacle(with_spec(**changes)) == ""
    instance = prewired(with_spec(**changes))
    assert _devices(msgspec.structs.replace(instance, saved=Saved(4, 5))) == _devices(
        msgspec.structs.replace(template_of(instance), memory_fd=4)
    )


@pytest.mark.parametrize("changes", SANDBOXES)
def test_nothing_of_a_sandbox_is_in_a_template(changes: dict[str, Any]) -> None:
    template = template_of(prewired(with_spec(**changes)))
    other = template_of(prewired(with_spec(**{**changes, "sandbox_id": "other", "directory": "/elsewhere"})))
    assert template == other
    text = repr(template)
    assert not [word for word in (MAC, "abc", "/rootfs", "8080", "70000", "987654", "/s'") if word in text]


def test_all_templates_have_room_for_what_comes_later() -> None:
    wired = prewired(SPEC)
    assert (wired.pcie_root_ports, wired.spare_disks, wired.scsi_controller) == (ROOT_PORTS, SPARE_DISKS, True)
    assert prewired(with_spec(pcie_root_ports=8)).pcie_root_ports == 8


def _devices(spec: MachineSpec) -> list[dict[str, object]]:
    nics = len(spec.nics)
    resolved = Resolved(
        binary="qemu",
        accelerator="tcg",
        qmp_fd=1,
        console_fd=2,
        port_fds=(3,) * (1 + spec.debug_console),
        disk_fds=(6,) * (1 + len(spec.disks)),
        ninep_fds=(7,) * sum(not export.empty for export in spec.ninep),
        vhost_fds=((),) * nics,
    )
    words = command_line(spec, resolved)
    found = [json.loads(words[index + 1]) for index, word in enumerate(words) if word == "-device"]
    behind = ("drive", "serial", "mac", "netdev")
    return sorted(({k: v for k, v in entry.items() if k not in behind} for entry in found), key=json.dumps)

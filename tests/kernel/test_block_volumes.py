"""Devices and mounts that become disks, with real nodes: which disk each is, and what the guest is told."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any, cast

import pytest

from kata import paths
from kata.hypervisor.machine import DiskAddress
from kata.oci.spec import LinuxDevice, Mount, Spec
from kata.protocol.generated import agent_pb2
from kata.sandbox import devices
from kata.sandbox.config import ContainerConfig, PluggedRootfs
from kata.sandbox.containerplan import plan_container
from kata.sandbox.devices import plan_devices
from kata.sandbox.errors import ConfigError
from kata.sandbox.updates import PLUGGED, STORAGE, Facilities
from kata.sandbox.volumes import plan_mounts
from kata.storage import directvolumes
from kata.storage.errors import VolumeError

pytestmark = pytest.mark.root

MAJOR, MINOR = 240, 17
"""Of the range for local use (Documentation/admin-guide/devices.txt): nobody has this device."""
HAS = Facilities(share=True, shm=True)


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The node of a block device which nothing is behind, on a host that calls it something else."""
    monkeypatch.setenv("KATA_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(devices, "SYSFS", str(tmp_path / "sys"))
    path = str(tmp_path / "node")
    os.mknod(path, stat.S_IFBLK | 0o640, os.makedev(MAJOR, MINOR))
    return path


def of_host(tmp_path: Path, *, readonly: bool) -> None:
    """What the kernel says of the device."""
    (folder := tmp_path / "sys/dev/block" / f"{MAJOR}:{MINOR}").mkdir(parents=True)
    (folder / "ro").write_text(f"{int(readonly)}\n")
    (folder / "uevent").write_text("MAJOR=240\nDEVNAME=of-no-such-name\n")


def spec(path: str, *rules: dict[str, Any], **changes: Any) -> Spec:
    device = {"path": path, "type": "b", "major": MAJOR, "minor": MINOR, "fileMode": 0o660, **changes}
    return cast("Spec", {"linux": {"devices": [device], "resources": {"devices": list(rules)}}})


def rule(access: str, *, allow: bool = True, minor: int | None = MINOR) -> dict[str, Any]:
    return {
        "allow": allow,
        "type": "b",
        "major": MAJOR,
        "access": access,
        **({} if minor is None else {"minor": minor}),
    }


def test_a_device_of_the_specification_is_a_disk(node: str, tmp_path: Path) -> None:
    of_host(tmp_path, readonly=False)
    [plan] = plan_devices(spec(node))
    assert (plan.plug.path, plan.plug.readonly, plan.container_path) == (node, False, node)
    assert plan.message == agent_pb2.Device(type=PLUGGED, id=plan.plug.serial, container_path=node)


@pytest.mark.parametrize(
    ("rules", "changes", "readonly"),
    [
        ([rule("rwm")], {}, False),
        ([rule("rm")], {}, True),
        ([rule("r"), rule("rw")], {}, False),
        ([rule("r", minor=MINOR + 1)], {}, False),
        ([rule("r", minor=None)], {}, False),
        ([{"allow": False, "access": "rwm"}], {}, False),
        ([], {"fileMode": 0o440}, True),
    ],
)
def test_it_is_written_to_only_if_the_container_may(
    node: str, rules: list[dict[str, Any]], changes: dict[str, Any], readonly: bool
) -> None:
    [plan] = plan_devices(spec(node, *rules, **changes))
    assert plan.plug.readonly is readonly


def test_a_device_that_its_host_only_reads(node: str, tmp_path: Path) -> None:
    of_host(tmp_path, readonly=True)
    [plan] = plan_devices(spec(node, rule("rwm")))
    [update] = plan_mounts("box", [bind(node, "/dev/xvda")], HAS)
    assert plan.plug.readonly and update.plug is not None and update.plug.readonly


def test_devices_that_cannot_be_given(node: str) -> None:
    with pytest.raises(ConfigError, match="no block device 240:18"):
        plan_devices(spec(node, minor=MINOR + 1))
    with pytest.raises(ConfigError, match="/dev/vfio/12"):
        plan_devices(spec("/dev/vfio/12", type="c"))
    assert plan_devices(spec("/dev/fuse", type="c")) == [], "the guest has its own"


def bind(source: str, destination: str, *options: str) -> Mount:
    return {"destination": destination, "type": "bind", "source": source, "options": ["rbind", *options]}


def test_a_node_that_is_bound_below_dev_is_a_device(node: str) -> None:
    [update] = plan_mounts("box", [bind(node, "/dev/xvda", "ro")], HAS)
    assert update.mount is None and update.storage is None
    assert update.plug is not None and update.plug.readonly
    assert update.device == LinuxDevice(
        path="/dev/xvda", type="b", major=MAJOR, minor=MINOR, fileMode=0o640, uid=0, gid=0
    )


def test_a_node_that_is_bound_elsewhere_is_the_guests(node: str) -> None:
    [update] = plan_mounts("box", [bind(node, "/data/disk")], HAS)
    assert update.plug is not None and update.device is not None and update.storage is not None
    assert update.mount == bind(f"{STORAGE}/{update.plug.serial}", "/data/disk")
    assert (update.storage.fstype, list(update.storage.options)) == ("bind", ["bind"])
    assert update.device["path"] == f"/dev/{update.plug.serial}"


def test_a_direct_volume_is_mounted_by_the_guest(node: str) -> None:
    record = {
        "volume-type": "block",
        "device": node,
        "fstype": "ext4",
        "metadata": {"fsGroup": "77", "fsGroupChangePolicy": "OnRootMismatch"},
        "options": ["noatime", "rw"],
    }
    directvolumes.add("/no/such/place", json.dumps(record).encode())
    [update] = plan_mounts("box", [bind("/no/such/place", "/data", "ro")], HAS)
    assert update.plug is not None and update.storage is not None
    assert (update.plug.path, update.plug.readonly, update.plug.volume) == (node, True, "/no/such/place")
    assert update.storage.mount_point == f"{STORAGE}/{directvolumes.encode('/no/such/place')}"
    assert (update.storage.driver, update.storage.source) == (PLUGGED, update.plug.serial)
    assert list(update.storage.options) == ["noatime", "ro"]
    assert (update.storage.fs_group.group_id, update.storage.fs_group.group_change_policy) == (77, 1)
    assert update.mount == bind(update.storage.mount_point, "/data", "ro")
    assert update.share is None


def test_a_record_that_is_wrong_stops_the_container(node: str, tmp_path: Path) -> None:
    directvolumes.add(str(tmp_path), b'{"volume-type": "block", "device": "/d", "fstype": "ext4"}')
    with pytest.raises(ConfigError, match="/d cannot be used"):
        plan_mounts("box", [bind(str(tmp_path), "/data")], HAS)
    next(paths.direct_volumes_dir().glob("*/mountInfo.json")).write_text("[]")
    with pytest.raises(VolumeError, match="cannot be used"):
        plan_mounts("box", [bind(str(tmp_path), "/data")], HAS)


def test_a_plan_has_each_disk_once_and_its_addresses_when_they_are_known(node: str, tmp_path: Path) -> None:
    (image := tmp_path / "image").write_bytes(bytes(4096))
    given: dict[str, object] = {**spec(node, rule("r")), "mounts": [bind(node, "/data/disk")]}
    config = ContainerConfig(id="box", spec=given, rootfs=PluggedRootfs(str(image), "erofs", ("ro",)))
    plan = plan_container(config, HAS)
    assert [(plug.path, plug.readonly) for plug in plan.plugs] == [(str(image), True), (node, False)]
    assert [device["path"] for device in plan.spec["linux"]["devices"]] == [node, f"/dev/{plan.plugs[1].serial}"]
    assert {(device["major"], device["minor"]) for device in plan.spec["linux"]["devices"]} == {(MAJOR, MINOR)}

    places = {plan.plugs[0].serial: DiskAddress("blk", "1d.0/00"), plan.plugs[1].serial: DiskAddress("scsi", "20:0")}
    made = plan.with_addresses(places.__getitem__)
    assert [(storage.driver, storage.source) for storage in made.storages] == [
        ("blk", "1d.0/00"),
        ("overlayfs", "overlay"),
        ("scsi", "20:0"),
    ]
    assert [(device.type, device.id) for device in made.devices] == [("scsi", "20:0")] * 2
    assert all(storage.driver != PLUGGED for storage in made.storages)
    assert plan.storages[0].driver == PLUGGED, "the plan itself stays as it was"

"""How a guest hears of its share, and which containers hear of what others share with them."""

from __future__ import annotations

import pytest

from kata.hypervisor.machine import NinePDirectory
from kata.sandbox import sharing
from kata.sandbox.bringup import machine_spec
from kata.sandbox.config import ContainerConfig, DiskRootfs, GuestAssets, SandboxConfig, SharedFs, SharedMount, Sharing
from kata.sandbox.containerplan import plan_container
from kata.sandbox.updates import Facilities


def test_both_ways_lead_to_one_place() -> None:
    virtiofs, ninep = (sharing.storage(way) for way in (Sharing(), Sharing(way="virtio-9p", msize=4096)))
    assert (virtiofs.driver, virtiofs.fstype, list(virtiofs.options)) == ("virtio-fs", "virtiofs", ["nodev"])
    assert (ninep.driver, ninep.fstype) == ("9p", "9p")
    assert {"trans=virtio", "version=9p2000.L", "nodev", "msize=4096"} <= set(ninep.options)
    assert (virtiofs.source, virtiofs.mount_point) == (ninep.source, ninep.mount_point)


@pytest.mark.parametrize(
    ("share", "way", "places"),
    [
        (True, "virtio-9p", (NinePDirectory("kataShared"),)),
        (True, "virtio-fs", ()),
        (False, "virtio-9p", ()),
    ],
)
def test_a_machine_has_the_place_of_its_9p_share_from_the_start(
    share: bool, way: SharedFs, places: tuple[NinePDirectory, ...]
) -> None:
    config = SandboxConfig(
        id="box", hostname="box", assets=GuestAssets("/k", None, "/i"), share=share, sharing=Sharing(way=way)
    )
    spec = machine_spec(config, "/")
    assert (spec.ninep, spec.shares) == (places, ())
    if share and way == "virtio-9p":
        assert sharing.storage(config.sharing).source == spec.ninep[0].tag


@pytest.mark.parametrize(("annotations", "seen"), [({}, 1), ({"io.kubernetes.cri.container-name": "web"}, 2)])
def test_shared_mounts_reach_the_container_that_they_name(annotations: dict[str, str], seen: int) -> None:
    entries = [SharedMount("n", "db", "/data", who, "/data") for who in ("box", "web", "other")]
    spec: dict[str, object] = {"annotations": annotations}
    config = ContainerConfig(id="box", spec=spec, rootfs=DiskRootfs("d"))
    plan = plan_container(config, Facilities(share=False, shm=False, shared_mounts=tuple(entries)))
    assert [entry.dst_ctr for entry in plan.shared_mounts] == ["box", "web"][:seen]

"""Everything that one container needs of its sandbox, found out before anything is done: a value.

Called by `sandbox.create_container`, which has `provide` carry it out and then tells the agent. Looks at paths of the
host and changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

from kata.protocol.generated import agent_pb2
from kata.sandbox import guest
from kata.sandbox.config import PluggedRootfs, SharedRootfs
from kata.sandbox.devices import DevicePlan, plan_devices
from kata.sandbox.disks import plug_of
from kata.sandbox.translate import Translation, for_guest, wants_sandbox_pids
from kata.sandbox.updates import Copy, Facilities, MountUpdate, Plug, Share, addressed
from kata.sandbox.volumes import plan_mounts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kata.oci.spec import Spec
    from kata.sandbox.config import ContainerConfig, SandboxConfig, SharedMount

NAMES = ("io.kubernetes.cri.container-name", "io.kubernetes.cri-o.ContainerName", "io.kubernetes.container.name")
"""Annotations with the name that a pod's specification gives a container."""


class ContainerPlan(NamedTuple):
    """`spec` is the guest's form. `shares`, `plugs` and `copies` must be there before the agent is asked.

    `storages` and `devices` lack the addresses of disks until `with_addresses`. `warnings` are for the log.
    """

    spec: Spec
    storages: list[agent_pb2.Storage]
    devices: list[agent_pb2.Device] = []
    shares: list[Share] = []
    plugs: list[Plug] = []
    copies: list[Copy] = []
    sandbox_pids: bool = False
    shared_mounts: list[agent_pb2.SharedMount] = []
    warnings: list[str] = []

    def with_addresses(self, address: Callable[[str], tuple[str, str]]) -> ContainerPlan:
        """The same once every disk is plugged in; `address` finds a disk of the machine by its serial."""
        storages, devices = addressed(self.storages, self.devices, address)
        return self._replace(storages=storages, devices=devices)


def plan_container(config: ContainerConfig, has: Facilities) -> ContainerPlan:
    """The plan for a container of a sandbox that has these. Raises ConfigError, VolumeError."""
    spec = cast("Spec", config.spec)
    updates = plan_mounts(config.id, spec.get("mounts", []), has)
    devices = plan_devices(spec) + [
        DevicePlan(update.plug, update.device["path"]) for update in updates if update.plug and update.device
    ]
    plugs = [update.plug for update in updates if update.plug and not update.device]
    place, storages, root_shares, root_plugs = _rootfs(config)
    added = [guest.resolv_conf()] if config.resolv_conf else []
    return ContainerPlan(
        spec=for_guest(
            spec,
            Translation(
                place, updates, added, [update.device for update in updates if update.device], config.annotations
            ),
        ),
        storages=storages + [update.storage for update in updates if update.storage],
        devices=[device.message for device in devices],
        shares=root_shares + _shares(updates),
        plugs=root_plugs + _merged(plugs + [device.plug for device in devices]),
        copies=[update.copy for update in updates if update.copy],
        sandbox_pids=wants_sandbox_pids(spec),
        shared_mounts=[_message(entry) for entry in has.shared_mounts if entry.dst_ctr in _names(config)],
        warnings=[update.warning for update in updates if update.warning],
    )


def facilities(config: SandboxConfig) -> Facilities:
    """What a sandbox has for its containers."""
    return Facilities(
        share=config.share,
        shm=config.shm_bytes > 0,
        empty_dir_disks=config.empty_dir_disks,
        kubelet_root=config.kubelet_root,
        shared_mounts=config.shared_mounts,
    )


def _names(config: ContainerConfig) -> set[str]:
    """What a container may be called: its id, or its name in the pod."""
    annotations = {**cast("Spec", config.spec).get("annotations", {}), **config.annotations}
    return {config.id, *(annotations[key] for key in NAMES if key in annotations)}


def _message(entry: SharedMount) -> agent_pb2.SharedMount:
    return agent_pb2.SharedMount(
        name=entry.name,
        src_ctr=entry.src_ctr,
        src_path=entry.src_path,
        dst_ctr=entry.dst_ctr,
        dst_path=entry.dst_path,
    )


def _rootfs(config: ContainerConfig) -> tuple[str, list[agent_pb2.Storage], list[Share], list[Plug]]:
    place, storages = guest.rootfs(config)
    shares, plugs = [], []
    if isinstance(config.rootfs, SharedRootfs):
        # Writable on the host even for a read-only root: the guest makes mount points in it first, and what it could
        # write to is this container's own.
        shares.append(Share(guest.rootfs_name(config.id), config.rootfs.path, readonly=False))
    elif isinstance(config.rootfs, PluggedRootfs):
        plug = plug_of(config.rootfs.path, readonly=config.rootfs.readonly)
        plugs.append(plug._replace(bounded=config.rootfs.fstype == "erofs"))
        storages[0].source = plug.serial
    return place, storages, shares, plugs


def _shares(updates: Sequence[MountUpdate]) -> list[Share]:
    return [update.share for update in updates if update.share]


def _merged(plugs: Sequence[Plug]) -> list[Plug]:
    """Each disk once; writable when any of its uses is."""
    merged: dict[str, Plug] = {}
    for plug in plugs:
        before = merged.get(plug.serial, plug)
        merged[plug.serial] = before._replace(
            readonly=before.readonly and plug.readonly, volume=before.volume or plug.volume
        )
    return list(merged.values())

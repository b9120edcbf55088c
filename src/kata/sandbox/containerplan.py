"""Everything that one container needs of its sandbox, found out before anything is done: a value.

Called by `sandbox.create_container`, which then shares the directories and tells the agent. Looks at paths of the
host and changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

from kata.sandbox import guest
from kata.sandbox.config import SharedRootfs
from kata.sandbox.translate import Translation, for_guest, wants_sandbox_pids
from kata.sandbox.volumes import Share, plan_mounts

if TYPE_CHECKING:
    from collections.abc import Callable

    from kata.oci.spec import Spec
    from kata.protocol.generated import agent_pb2
    from kata.sandbox.config import ContainerConfig


class ContainerPlan(NamedTuple):
    """`spec` is the guest's form; `shares` must be there before the agent is asked. `warnings` are for the log."""

    spec: Spec
    storages: list[agent_pb2.Storage]
    shares: list[Share]
    sandbox_pids: bool
    warnings: list[str]


def plan_container(
    config: ContainerConfig, disk_address: Callable[[str], tuple[str, str]], *, shm: bool
) -> ContainerPlan:
    """The plan for a container. `disk_address` finds a disk of the machine. Raises ConfigError."""
    spec = cast("Spec", config.spec)
    rootfs, storages = guest.rootfs(config, disk_address)
    updates = plan_mounts(config.id, spec.get("mounts", []), shm=shm)
    added = [guest.resolv_conf()] if config.resolv_conf else []
    shares = [update.share for update in updates if update.share]
    if isinstance(config.rootfs, SharedRootfs):
        # Writable on the host even for a read-only root: the guest makes mount points in it first, and what it could
        # write to is this container's own.
        shares.insert(0, Share(guest.rootfs_name(config.id), config.rootfs.path, readonly=False))
    return ContainerPlan(
        spec=for_guest(spec, Translation(rootfs, updates, added, config.annotations)),
        storages=storages + [update.storage for update in updates if update.storage],
        shares=shares,
        sandbox_pids=wants_sandbox_pids(spec),
        warnings=[update.warning for update in updates if update.warning],
    )

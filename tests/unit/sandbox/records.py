"""Records for tests: a whole, valid one with as little in it as can be."""

from __future__ import annotations

from kata.sandbox.config import ContainerConfig, DiskRootfs, GuestAssets, SandboxConfig
from kata.sandbox.store import Record


def record(sandbox_id: str = "0" * 32, name: str = "one", *, auto_remove: bool = False) -> Record:
    """A sandbox that is being created."""
    return Record(
        name=name,
        image="busybox",
        command=["true"],
        sandbox=SandboxConfig(id=sandbox_id, hostname="h", assets=GuestAssets("/k", None, "/i")),
        container=ContainerConfig(id=sandbox_id, spec={"process": {"args": ["true"]}}, rootfs=DiskRootfs("rootfs")),
        auto_remove=auto_remove,
        created_at=1.0,
    )

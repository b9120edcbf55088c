"""From a pod's first specification to the sandbox that it gets: sizes, guest, shared directories.

Called by `pod` when a sandbox starts. Looks at the guest's assets and changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kata import paths
from kata.osbuilder.assets import present
from kata.sandbox.config import GuestAssets, SandboxConfig

if TYPE_CHECKING:
    from kata.oci.spec import Spec
    from kata.shim.kind import Kind

HOSTNAME_LIMIT = 64
"""Bytes of a host name (sethostname(2))."""
DEFAULT_SHM = 64 << 20


def sandbox_config(kind: Kind, spec: Spec) -> SandboxConfig:
    """The sandbox for a pod or a container of its own. Raises KataError when there is nothing to boot from."""
    assets = present(paths.assets_dir())
    return SandboxConfig(
        id=kind.sandbox_id,
        hostname=spec.get("hostname", "")[:HOSTNAME_LIMIT],
        assets=GuestAssets(assets.kernel, assets.initrd, assets.image),
        network="none",
        share=True,
        shm_bytes=DEFAULT_SHM,
    )

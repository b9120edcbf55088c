"""What a sandbox and its containers are made of: frozen values, filled in by a front end, stored as JSON.

Nothing here changes after a sandbox was made; what does change is in `store.Record`.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from kata.hypervisor.machine import Accelerator, Disk, MachineType, PublishedPort, Transport

DEFAULT_MEMORY_MIB = 256
MINIMUM_MEMORY_MIB = 96
"""Below this Debian's kernel with its initrd does not reach the agent (measured; docs/performance.md)."""

DEFAULT_BOOT_TIMEOUT = 90.0
"""Seconds until a guest's agent must answer. A cold boot takes 3 to 5 s here; a loaded machine much more."""


class GuestAssets(msgspec.Struct, frozen=True):
    """The files a VM boots from. `image` is None when `initrd` holds the whole guest."""

    kernel: str
    initrd: str | None
    image: str | None


class Volume(msgspec.Struct, frozen=True):
    """A directory or file of the host that the container sees at `destination`."""

    source: str
    destination: str
    readonly: bool = False


class SandboxConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One VM. `memory_mib` is in MiB, `boot_timeout` in seconds; `dns` goes into the guest's resolv.conf."""

    id: str
    hostname: str
    assets: GuestAssets
    vcpus: int = 1
    memory_mib: int = DEFAULT_MEMORY_MIB
    machine_type: MachineType = "q35"
    accelerator: Accelerator = "auto"
    transport: Transport = "auto"
    network: Literal["none", "user"] = "user"
    ports: tuple[PublishedPort, ...] = ()
    dns: tuple[str, ...] = ()
    disks: tuple[Disk, ...] = ()
    volumes: tuple[Volume, ...] = ()
    kernel_params: tuple[str, ...] = ()
    boot_timeout: float = DEFAULT_BOOT_TIMEOUT


class ContainerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One container. `spec` is its OCI spec as config.json has it, with host paths nowhere in it.

    `rootfs_serial` names the disk of the sandbox that holds its root filesystem (erofs). A writable root is an
    overlay whose upper layer is in the guest's memory.
    """

    id: str
    spec: dict[str, object]
    rootfs_serial: str
    stop_signal: int = 15

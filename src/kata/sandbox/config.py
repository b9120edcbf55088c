"""What a sandbox and its containers are made of: frozen values, filled in by a front end, stored as JSON.

Nothing here changes after a sandbox was made; what does change is in `store.Record`.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from kata.cgroups.path import Placement
from kata.hypervisor.machine import (
    Accelerator,
    Disk,
    DiskDriver,
    DiskOptions,
    Hardware,
    ImageType,
    MachineType,
    PublishedPort,
    Transport,
)
from kata.storage.daemon import Cache

DEFAULT_MEMORY_MIB = 256
MINIMUM_MEMORY_MIB = 96
"""Below this Debian's kernel with its initrd does not reach the agent (measured; docs/performance.md)."""

DEFAULT_BOOT_TIMEOUT = 90.0
"""Seconds until a guest's agent must answer. A cold boot takes 3 to 5 s here; a loaded machine much more."""

SharedFs = Literal["virtio-fs", "virtio-9p"]
DEFAULT_MSIZE = 512_000
"""The most that Linux's virtio transport for 9p sends at once (net/9p/trans_virtio.c: 125 pages)."""


class GuestAssets(msgspec.Struct, frozen=True):
    """The files a VM boots from. `image` is None when `initrd` holds the whole guest."""

    kernel: str
    initrd: str | None
    image: str | None
    image_type: ImageType = "erofs"


class SandboxMount(msgspec.Struct, frozen=True):
    """A path of the host that the guest itself sees, by its last part (`updates.SANDBOX_MOUNTS`)."""

    path: str
    readonly: bool = True


class SharedMount(msgspec.Struct, frozen=True):
    """A folder `src_path` of the container `src_ctr` that the container `dst_ctr` sees at `dst_path`."""

    name: str
    src_ctr: str
    src_path: str
    dst_ctr: str
    dst_path: str


class Sharing(msgspec.Struct, frozen=True, kw_only=True):
    """How the guest sees directories of the host.

    virtio-fs: `daemon` is its program, empty for the one that this host has, `cache` what the guest keeps. 9p: `msize`
    is the most bytes of one message. `mounts` are there from the start.
    """

    way: SharedFs = "virtio-fs"
    daemon: str = ""
    cache: Cache = "auto"
    msize: int = DEFAULT_MSIZE
    mounts: tuple[SandboxMount, ...] = ()


class PodNetworkConfig(msgspec.Struct, frozen=True):
    """A pod's network namespace, and how its interfaces reach the guest. Rates in bits a second, 0 for no limit.

    `netns` is its path, empty for a new one, which the engine then finds by the VMM's process. `queues` are those of a
    NIC, 0 for one for each vCPU. `vhost`: the host's kernel moves packets, where it can.
    """

    netns: str
    model: str = "tcfilter"
    queues: int = 0
    vhost: bool = False
    rx_rate: int = 0
    tx_rate: int = 0


class Sizing(msgspec.Struct, frozen=True, kw_only=True):
    """How a machine follows the limits of its containers. CPUs are counted in fractions, memory in MiB.

    `own_*` is the sandbox's share beside the containers', `announced_*` what the engine said beforehand that all
    containers may use. `follows`: the machine is resized; else it stays as it boots.
    """

    follows: bool = False
    own_vcpus: float = 0.0
    own_memory_mib: int = 0
    max_vcpus: int = 0
    max_memory_mib: int = 0
    memory_slots: int = 0
    announced_vcpus: float = 0.0
    announced_memory_mib: int = 0
    pin_vcpus: bool = False


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds that the agent may take: for one try to reach it, to create a container, for other requests."""

    attempt: float = 1.0
    create: float = 60.0
    request: float = 60.0


class GuestOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the agent is told first: a policy (Rego), kernel modules with their parameters, a folder of OCI hooks."""

    policy: str = ""
    modules: tuple[tuple[str, ...], ...] = ()
    hook_path: str = ""


class SandboxConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One VM. `memory_mib` is in MiB, `boot_timeout` in seconds; `dns` goes into the guest's resolv.conf.

    `share`: the guest sees directories of the host, by `sharing`, which its containers' volumes and shared root file
    systems need; without it they are copied or plugged in. `kubelet_root`: volumes of Kubernetes are known by their
    paths, below it alone unless it is empty. `empty_dir_disks`: an emptyDir is a disk of its own. `shared_mounts`:
    folders of one container that another one sees. `block_rootfs`: a root file system that is a disk is plugged in.
    `disk_drivers`: how disks are plugged into it, the first that has a place; `root_ports` are places for the driver
    "blk", and under TCG each is a tenth of a second of boot. `shm_bytes`: the size of a /dev/shm that its containers
    share, 0 for none. `sizing`: how the machine follows its containers; `cgroup`: its place on the host, None for that
    of who starts it. `balloon`: memory that the guest does not use goes back to the host. `debug_console`: the host can
    have a root shell of the guest. `log_console`: the guest's console is logged.
    """

    id: str
    hostname: str
    assets: GuestAssets
    vcpus: int = 1
    memory_mib: int = DEFAULT_MEMORY_MIB
    machine_type: MachineType = "q35"
    accelerator: Accelerator = "auto"
    transport: Transport = "auto"
    network: Literal["none", "user"] | PodNetworkConfig = "user"
    ports: tuple[PublishedPort, ...] = ()
    dns: tuple[str, ...] = ()
    disks: tuple[Disk, ...] = ()
    share: bool = False
    sharing: Sharing = Sharing()
    kubelet_root: str = ""
    empty_dir_disks: bool = False
    shared_mounts: tuple[SharedMount, ...] = ()
    block_rootfs: bool = False
    disk_drivers: tuple[DiskDriver, ...] = ("blk",)
    root_ports: int = 0
    shm_bytes: int = 0
    sizing: Sizing = Sizing()
    cgroup: Placement | None = None
    balloon: bool = False
    preallocate: bool = False
    hugepages: bool = False
    kernel_params: tuple[str, ...] = ()
    debug_console: bool = False
    log_console: bool = False
    boot_timeout: float = DEFAULT_BOOT_TIMEOUT
    template: bool = False
    """Whether the machine goes on from a template where it can, which is made at its first use."""
    template_path: str = ""
    """The folder of templates; empty for ours."""
    patience: Patience = Patience()
    guest: GuestOptions = GuestOptions()
    disk_options: DiskOptions = DiskOptions()
    hardware: Hardware = Hardware()

    @property
    def netns(self) -> str:
        """The path of the pod's network namespace; empty without one."""
        return self.network.netns if isinstance(self.network, PodNetworkConfig) else ""


class DiskRootfs(msgspec.Struct, frozen=True, tag="disk"):
    """The disk of the sandbox with this serial (erofs). What the container writes is in the guest's memory."""

    serial: str


class SharedRootfs(msgspec.Struct, frozen=True, tag="share"):
    """A directory of the host, which the container reads and writes through the share."""

    path: str


class PluggedRootfs(msgspec.Struct, frozen=True, tag="plug"):
    """A block device or image file of the host, plugged in for this container.

    `layered`: it stays as it is, and what the container writes is in the guest's memory; else the container writes to
    it unless it is `readonly`. `options` are the guest's mount options.
    """

    path: str
    fstype: str
    options: tuple[str, ...] = ()
    readonly: bool = True
    layered: bool = True


Rootfs = DiskRootfs | SharedRootfs | PluggedRootfs


class ContainerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One container. `spec` is its OCI spec as config.json has it, with the host's paths.

    `resolv_conf`: it gets the resolv.conf that its guest was given. `annotations` are added to the spec's own.
    """

    id: str
    spec: dict[str, object]
    rootfs: Rootfs
    stop_signal: int = 15
    resolv_conf: bool = False
    annotations: dict[str, str] = {}

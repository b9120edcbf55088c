"""What handlers say that a mount or a device of a container becomes in the guest: values, and the guest's paths.

Made by `volumes`, `blockvolumes` and `devices`; `translate` applies them to the specification, `provide` carries out
what they ask for. A message for a disk that is not plugged in yet has the driver `PLUGGED` and the disk's serial as
its source; `addressed` puts the address in. Never look at the host here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kata.oci.spec import LinuxDevice, Mount
    from kata.protocol.generated import agent_pb2
    from kata.sandbox.config import SharedMount

SHARE_MOUNT = "/run/kata-containers/shared/containers"
"""Where the guest mounts the share, and where the agent puts files that it is sent."""
SANDBOX_MOUNTS = "sandbox-mounts"
"""The folder of the share with what the operator shows to every guest."""
SANDBOX_SHM = "/run/kata-containers/sandbox/shm"
EPHEMERAL = "/run/kata-containers/sandbox/ephemeral"
LOCAL = "/run/kata-containers/sandbox/local"
STORAGE = "/run/kata-containers/sandbox/storage"
WATCHABLE = "/run/kata-containers/sandbox/watchable"

PLUGGED = "plugged"
"""Stands for the driver of a disk until it has an address. No driver of the agent has this name."""


class Share(NamedTuple):
    """A path of the host that the guest has to see as `name` in the share."""

    name: str
    path: str
    readonly: bool


class Copy(NamedTuple):
    """A path of the host whose content the guest has to have at `target`: nothing is shared with it.

    `followed`: what changes on the host later has to change there.
    """

    path: str
    target: str
    followed: bool = False


class Plug(NamedTuple):
    """A block device or image file of the host that the guest has to have as the disk `serial`.

    `volume` is the direct volume that it is, which is marked as in use meanwhile. `empty_dir`: it is a file in that
    folder, made when it is first needed. `identity`: what the path led to when it was looked at, as
    `hypervisor.machine.Disk` has it.
    """

    serial: str
    path: str
    readonly: bool
    volume: str = ""
    bounded: bool = False
    """As `hypervisor.machine.Disk` has it."""
    empty_dir: str = ""
    identity: str = ""


class MountUpdate(NamedTuple):
    """What the mount at `position` of the specification becomes; `mount` None drops it.

    All that is beside it is needed for that: `device` is added to the specification's devices, with host numbers.
    """

    position: int
    mount: Mount | None
    share: Share | None = None
    storage: agent_pb2.Storage | None = None
    copy: Copy | None = None
    plug: Plug | None = None
    device: LinuxDevice | None = None
    warning: str = ""


class Facilities(NamedTuple):
    """What a sandbox has for its containers: a share with the host, a /dev/shm of all of them, disks for emptyDirs.

    Volumes of Kubernetes are below `kubelet_root`, anywhere when it is empty; `shared_mounts` are those of all of them.
    """

    share: bool
    shm: bool
    empty_dir_disks: bool = False
    kubelet_root: str = ""
    shared_mounts: tuple[SharedMount, ...] = ()


def addressed(
    storages: Sequence[agent_pb2.Storage],
    devices: Sequence[agent_pb2.Device],
    address: Callable[[str], tuple[str, str]],
) -> tuple[list[agent_pb2.Storage], list[agent_pb2.Device]]:
    """The messages with the drivers and addresses of their disks. `address` finds a disk by its serial."""
    return [_address_storage(storage, address) for storage in storages], [
        _address_device(device, address) for device in devices
    ]


def _address_storage(storage: agent_pb2.Storage, address: Callable[[str], tuple[str, str]]) -> agent_pb2.Storage:
    if storage.driver != PLUGGED:
        return storage
    made = type(storage)()
    made.CopyFrom(storage)
    made.driver, made.source = address(storage.source)
    return made


def _address_device(device: agent_pb2.Device, address: Callable[[str], tuple[str, str]]) -> agent_pb2.Device:
    driver, source = address(device.id)
    made = type(device)(type=driver, container_path=device.container_path)
    if source.startswith("/"):
        made.vm_path = source  # a node whose name is known (virtio-mmio)
    else:
        made.id = source
    return made

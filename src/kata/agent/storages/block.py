"""Drivers "blk", "mmioblk", "scsi" and "nvdimm": wait for a disk, mount what is on it.

Called through the registry. Formatting and encryption belong to the issue that brings confidential storage; until
then they are refused.
"""

from __future__ import annotations

import os
import stat

from kata.agent.storages.context import Directory, MountRequest
from kata.agent.storages.errors import InvalidStorage, UnsupportedStorage
from kata.linux.mountoptions import parse_options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.agent.storages.context import StorageContext
    from kata.protocol.generated import agent_pb2

_UNSUPPORTED = ("encryption_key", "create_filesystem")


def handle_blk(storage: agent_pb2.Storage, context: StorageContext, container_id: str) -> MountRequest:
    """A virtio disk at a PCI path, or a node that is there already. Raises InvalidStorage, DeviceTimeout."""
    if storage.source.startswith("/"):
        return _mount_disk(storage, _require_block(storage.source))
    return _mount_disk(storage, context.hotplug.find_pci_block(storage.source))


def handle_scsi(storage: agent_pb2.Storage, context: StorageContext, container_id: str) -> MountRequest:
    """A SCSI disk at `<id>:<lun>`. Raises InvalidDevice, DeviceTimeout."""
    return _mount_disk(storage, context.hotplug.find_scsi_block(storage.source))


def handle_named(storage: agent_pb2.Storage, context: StorageContext, container_id: str) -> MountRequest:
    """A disk by the name that the host foretold (virtio-mmio, persistent memory). Raises DeviceTimeout."""
    return _mount_disk(storage, context.hotplug.find_named_block(storage.source))


def _mount_disk(storage: agent_pb2.Storage, node: str) -> MountRequest:
    if not storage.fstype:
        raise InvalidStorage(f"the storage at {storage.mount_point} does not say which file system is on the disk")
    options = parse_options(storage.options)
    return MountRequest(
        Directory(storage.mount_point), node, storage.fstype, options.flags, options.propagation, options.data
    )


def _require_block(path: str) -> str:
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise InvalidStorage(f"the disk {path} does not exist", detail=str(error)) from error
    if not stat.S_ISBLK(mode):
        raise InvalidStorage(f"{path} is no disk")
    return path


def require_plain(storage: agent_pb2.Storage) -> None:
    """Raises UnsupportedStorage when the driver options ask for formatting or encryption."""
    for option in storage.driver_options:
        if option.partition("=")[0] in _UNSUPPORTED:
            raise UnsupportedStorage(f"storage option {option.partition('=')[0]!r} is not supported by this agent")

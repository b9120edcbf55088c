"""Drivers "virtio-fs", "9p" and "bind": directories that come from the host, or from elsewhere in the guest.

Called through the registry. There is nothing to wait for: the share is a device of the VM from its start.
"""

from __future__ import annotations

import os

from kata.agent.storages.context import Directory, MountRequest
from kata.agent.storages.errors import InvalidStorage
from kata.agent.storages.options import parse_options
from kata.linux import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.agent.storages.context import StorageContext
    from kata.protocol.generated import agent_pb2


def handle_share(storage: agent_pb2.Storage, context: StorageContext, container_id: str) -> MountRequest:
    """A share by its tag; one that the guest's init has mounted already is taken as it is."""
    options = parse_options(storage.options)
    return MountRequest(
        Directory(storage.mount_point),
        storage.source,
        storage.fstype or _FSTYPES[storage.driver],
        options.flags,
        options.propagation,
        options.data,
        premounted=True,
    )


def handle_bind(storage: agent_pb2.Storage, context: StorageContext, container_id: str) -> MountRequest:
    """A directory or file of the guest at another place. Raises InvalidStorage."""
    if not os.path.exists(storage.source):
        raise InvalidStorage(f"the source {storage.source} of a bind mount does not exist in the guest")
    options = parse_options(storage.options)
    return MountRequest(
        Directory(storage.mount_point),
        storage.source,
        flags=options.flags | syscalls.MS_BIND,
        propagation=options.propagation,
    )


_FSTYPES = {"virtio-fs": "virtiofs", "9p": "9p"}

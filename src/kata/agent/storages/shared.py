"""Drivers "virtio-fs", "9p", "bind" and "watchable-bind": what comes from the host, or from elsewhere in the guest.

Called through the registry. A share by virtio-fs may be a device that has just come, and is waited for.
"""

from __future__ import annotations

import os

from kata.agent.storages.context import Directory, MountRequest
from kata.agent.storages.errors import InvalidStorage
from kata.linux import syscalls
from kata.linux.mountoptions import parse_options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.agent.storages.context import StorageContext
    from kata.protocol.generated import agent_pb2


def handle_share(storage: agent_pb2.Storage, context: StorageContext, container_id: str) -> MountRequest:
    """A share by its tag; one that the guest's init has mounted already is taken as it is. Raises DeviceTimeout."""
    if storage.driver == "virtio-fs":
        context.hotplug.find_share(storage.source)
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


def handle_watchable(storage: agent_pb2.Storage, context: StorageContext, container_id: str) -> MountRequest:
    """A small tree of the share as a copy in memory that follows it, so that inotify works in the container.

    What is too large for that is bound as it is. Raises InvalidStorage.
    """
    from kata.agent.storages.mirror import TooLarge, scan

    try:
        scan(storage.source)
    except OSError as error:
        raise InvalidStorage(f"the source {storage.source} of a watched volume cannot be read: {error}") from error
    except TooLarge as error:
        if context.log:
            context.log.warn("a volume is too large to be watched and is bound", path=storage.source, error=error)
        return handle_bind(storage, context, container_id)
    options = parse_options(storage.options)
    return MountRequest(
        Directory(storage.mount_point),
        "watchable",
        "tmpfs",
        options.flags & _MIRROR_FLAGS,  # the copy has to be written; "ro" is for the container's own mount
        options.propagation,
        "mode=755,size=8m,nr_inodes=256",
        mounted=os.path.isdir(storage.source),
        watched=storage.source,
    )


_MIRROR_FLAGS = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
_FSTYPES = {"virtio-fs": "virtiofs", "9p": "9p"}

"""What a storage handler may use, and what it gives back.

A handler waits for its source and returns a MountRequest; it mounts nothing and makes nothing. `mounter` alone
carries requests out, so that all can be undone in one place. Never add state here.
"""

from __future__ import annotations

from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from kata.agent.devices.hotplug import Hotplug
    from kata.agent.storages.hugepages import HugePages
    from kata.agent.storages.ownership import GroupOwner
    from kata.log import Logger
    from kata.protocol.generated import agent_pb2

    Handler = Callable[[agent_pb2.Storage, "StorageContext", str], "MountRequest"]

RUN_DIR = "/run/kata-containers"
DIRECTORY_MODE = 0o755
GROUP_MODE = 0o2775
"""Directories that a group shares: what is made inside belongs to the group too."""


class StorageContext(NamedTuple):
    """The sandbox's side of a handler. `run_dir` holds a folder for each container, on the guest's /run."""

    hotplug: Hotplug
    run_dir: str = RUN_DIR
    log: Logger | None = None
    sysfs: str = "/sys"


class Directory(NamedTuple):
    """A directory to be made; mode and group are set on one that is new."""

    path: str
    mode: int = DIRECTORY_MODE
    gid: int = -1


class MountRequest(NamedTuple):
    """What one storage needs.

    `directories` are made first, then `target` (a file when the bound `source` is one), then the mount. With no
    `mounted` the target directory is all. `gid` is the group that the mounted directory is given to. `scratch`
    are trees removed once the mount is gone. With `premounted` a file system of that type that is at the target
    already (the guest's init mounted it) will do. `pages` are reserved before the mount and given back after it;
    `group` gets all that is in the tree. The target is a copy of `watched` and follows it; without a mount it is a
    file.
    """

    target: Directory
    source: str = ""
    fstype: str = ""
    flags: int = 0
    propagation: int = 0
    data: str = ""
    directories: tuple[Directory, ...] = ()
    gid: int = -1
    scratch: tuple[str, ...] = ()
    mounted: bool = True
    premounted: bool = False
    pages: HugePages | None = None
    group: GroupOwner | None = None
    watched: str = ""

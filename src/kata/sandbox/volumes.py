"""What each mount of a container's specification becomes in the guest: one value a mount, and nothing is done yet.

Called by `sandbox` for every container. Handlers look at the host's path and return a `MountUpdate`; `translate`
applies all of them at once, and the sandbox shares what they ask for. Never mount or share here.
Rules and guest paths are upstream's (protocol facts, sections 6 and 8).
"""

from __future__ import annotations

import hashlib
import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from kata.protocol.generated import agent_pb2
from kata.sandbox.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kata.oci.spec import Mount

SHARE_MOUNT = "/run/kata-containers/shared/containers"
"""Where the guest mounts the share."""
SANDBOX_SHM = "/run/kata-containers/sandbox/shm"
EPHEMERAL = "/run/kata-containers/sandbox/ephemeral"
EMPTY_DIR = "kubernetes.io~empty-dir"
HOST_ONLY = ("/proc", "/sys", "/dev")
"""Sources below these are the guest's own: a guest has other processes, hardware and devices than its host."""


class Share(NamedTuple):
    """A path of the host that the guest has to see as `name` in the share."""

    name: str
    path: str
    readonly: bool


class MountUpdate(NamedTuple):
    """What the mount at `position` of the specification becomes; `mount` None drops it."""

    position: int
    mount: Mount | None
    share: Share | None = None
    storage: agent_pb2.Storage | None = None
    warning: str = ""


def plan_mounts(container_id: str, mounts: Sequence[Mount], *, shm: bool) -> list[MountUpdate]:
    """One update for every mount that changes. `shm`: the sandbox has a shared /dev/shm. Raises ConfigError."""
    updates = []
    for position, mount in enumerate(mounts):
        for applies, handle in HANDLERS:
            if applies(mount):
                updates += handle(container_id, position, mount, shm=shm)
                break
    return updates


def share_name(container_id: str, destination: str) -> str:
    """The name of a volume in the share: `<container>-<16 hex digits>-<last part of the destination>`."""
    digest = hashlib.sha256(f"{container_id} {destination}".encode()).hexdigest()[:16]
    return f"{container_id}-{digest}-{os.path.basename(destination.rstrip('/')) or 'root'}"


def _is_bind(mount: Mount) -> bool:
    options = mount.get("options", [])
    return mount.get("type") == "bind" or "bind" in options or "rbind" in options


def _is_shm(mount: Mount) -> bool:
    return os.path.normpath(mount["destination"]) == "/dev/shm"  # noqa: S108 - a path of the container


def _is_guests_own(mount: Mount) -> bool:
    source = os.path.normpath(mount.get("source", ""))
    return any(source == top or source.startswith(f"{top}/") for top in HOST_ONLY)


def _is_memory_volume(mount: Mount) -> bool:
    """A Kubernetes emptyDir of medium Memory: by its path, and the file system that kubelet mounted there."""
    source = mount.get("source", "")
    return EMPTY_DIR in source.split("/") and _fstype(source) == "tmpfs"


def _keep(container_id: str, position: int, mount: Mount, *, shm: bool) -> list[MountUpdate]:
    return []


def _shm(container_id: str, position: int, mount: Mount, *, shm: bool) -> list[MountUpdate]:
    if shm:
        return [MountUpdate(position, {**mount, "type": "bind", "source": SANDBOX_SHM, "options": ["rbind"]})]
    options = ["noexec", "nosuid", "nodev", "mode=1777", "size=67108864"]
    return [MountUpdate(position, {**mount, "type": "tmpfs", "source": "shm", "options": options})]


def _memory_volume(container_id: str, position: int, mount: Mount, *, shm: bool) -> list[MountUpdate]:
    place = f"{EPHEMERAL}/{os.path.basename(mount['source'].rstrip('/'))}"
    storage = agent_pb2.Storage(driver="ephemeral", source="tmpfs", fstype="tmpfs", mount_point=place)
    storage.shared = True  # it is the pod's: a container that is started again finds what it left there
    info, system = os.stat(mount["source"]), os.statvfs(mount["source"])
    storage.options.append(f"size={system.f_blocks * system.f_frsize}")
    if info.st_gid:
        storage.options.append(f"fsgid={info.st_gid}")
    return [MountUpdate(position, {**mount, "source": place}, storage=storage)]


def _shared(container_id: str, position: int, mount: Mount, *, shm: bool) -> list[MountUpdate]:
    source, destination = mount.get("source", ""), mount["destination"]
    try:
        mode = os.stat(source).st_mode
    except OSError as error:
        raise ConfigError(
            f"the mount source {source!r} of {destination} cannot be used: {error.strerror}",
            hint="a bind mount needs a directory or file that exists on the host",
        ) from error
    if stat.S_ISSOCK(mode) or stat.S_ISFIFO(mode):
        said = f"{source} is a socket or pipe of the host, which nothing in a virtual machine can connect to"
        return [MountUpdate(position, None, warning=f"{destination} is left out: {said}")]
    name = share_name(container_id, destination)
    readonly = "ro" in mount.get("options", [])
    # How the host propagates mounts is the host's affair: the share gets what is there.
    return [MountUpdate(position, {**mount, "source": f"{SHARE_MOUNT}/{name}"}, Share(name, source, readonly))]


if TYPE_CHECKING:
    Handler = Callable[..., list[MountUpdate]]

HANDLERS: tuple[tuple[Callable[[Mount], bool], Handler], ...] = (
    (lambda mount: _is_bind(mount) and _is_shm(mount), _shm),
    (lambda mount: not _is_bind(mount), _keep),
    (_is_guests_own, _keep),
    (_is_memory_volume, _memory_volume),
    (lambda mount: True, _shared),
)
"""The first that applies decides."""


def _fstype(path: str) -> str:
    """The type of the file system that is mounted at exactly this path; empty when none is."""
    from kata.linux.mounts import mount_points

    return next((point.fstype for point in reversed(mount_points()) if point.target == path), "")

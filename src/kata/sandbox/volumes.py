"""What each mount of a container's specification becomes in the guest: one value a mount, and nothing is done yet.

Called by `containerplan` for every container. Handlers look at the host's path and return `MountUpdate`s; `translate`
applies all of them at once, and `provide` carries out what they ask for. Never mount, plug or share here.
Rules and guest paths are upstream's (protocol facts, sections 6 and 8). Where each kind of file ends up is drawn in
docs/storage.md; handlers of disks are in `blockvolumes`.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from typing import TYPE_CHECKING

from kata.protocol.generated import agent_pb2
from kata.sandbox import blockvolumes
from kata.sandbox.errors import ConfigError
from kata.sandbox.updates import (
    EPHEMERAL,
    LOCAL,
    SANDBOX_SHM,
    SHARE_MOUNT,
    WATCHABLE,
    Copy,
    Facilities,
    MountUpdate,
    Share,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kata.oci.spec import Mount

EMPTY_DIR = "kubernetes.io~empty-dir"
CHANGING = ("kubernetes.io~configmap", "kubernetes.io~secret", "kubernetes.io~projected", "kubernetes.io~downward-api")
"""Volumes that the kubelet brings up to date while they are in use, and that programs watch with inotify."""
HOST_ONLY = ("/proc", "/sys", "/dev")
"""Sources below these are the guest's own: a guest has other processes, hardware and devices than its host."""
DEFAULT_SHM = 64 << 20


def plan_mounts(container_id: str, mounts: Sequence[Mount], has: Facilities) -> list[MountUpdate]:
    """One update for every mount that changes. Raises ConfigError, VolumeError."""
    updates = []
    for position, mount in enumerate(mounts):
        for applies, handle in HANDLERS:
            if applies(mount, has):
                updates += handle(container_id, position, mount, has)
                break
    return updates


def share_name(container_id: str, destination: str) -> str:
    """The name of a volume in the share: `<container>-<16 hex digits>-<last part of the destination>`."""
    digest = hashlib.sha256(f"{container_id} {destination}".encode()).hexdigest()[:16]
    return f"{container_id}-{digest}-{os.path.basename(destination.rstrip('/')) or 'root'}"


def shm_bytes(mounts: Sequence[Mount]) -> int:
    """How large the /dev/shm of a pod is: what whoever made it on the host gave it, else 64 MiB."""
    mount = next((mount for mount in mounts if _is_shm(mount) and is_bind(mount)), None)
    if mount is None or _fstype(mount.get("source", "")) != "tmpfs":
        return DEFAULT_SHM
    return _tmpfs_bytes(mount["source"]) or DEFAULT_SHM


def is_bind(mount: Mount) -> bool:
    """Whether a mount shows a path of the host."""
    options = mount.get("options", [])
    return mount.get("type") == "bind" or "bind" in options or "rbind" in options


def _kind(mount: Mount, has: Facilities) -> str:
    """Which of the kubelet's kinds of volumes a source is as a whole: a subPath is below one, and is none."""
    source = os.path.normpath(mount.get("source", ""))
    folder, kind = os.path.split(os.path.dirname(source))
    if not has.kubelet_root:
        return kind
    pods = os.path.normpath(f"{has.kubelet_root}/pods")
    return kind if re.fullmatch(f"{re.escape(pods)}/[^/]+/volumes", folder) else ""


def _is_shm(mount: Mount) -> bool:
    return os.path.normpath(mount["destination"]) == "/dev/shm"  # noqa: S108 - a path of the container


def _is_guests_own(mount: Mount) -> bool:
    source = os.path.normpath(mount.get("source", ""))
    return any(source == top or source.startswith(f"{top}/") for top in HOST_ONLY)


def _is_empty_dir(mount: Mount, has: Facilities) -> bool:
    """A Kubernetes emptyDir, by its path."""
    return _kind(mount, has) == EMPTY_DIR


def _is_memory_volume(mount: Mount, has: Facilities) -> bool:
    """An emptyDir of medium Memory: by the file system that kubelet mounted there."""
    return _is_empty_dir(mount, has) and _fstype(mount["source"].rstrip("/")) == "tmpfs"


def _is_changing(mount: Mount, has: Facilities) -> bool:
    """A ConfigMap, Secret or the like: the kubelet never updates what is mounted by subPath."""
    return _kind(mount, has) in CHANGING


def _keep(container_id: str, position: int, mount: Mount, has: Facilities) -> list[MountUpdate]:
    return []


def _shm(container_id: str, position: int, mount: Mount, has: Facilities) -> list[MountUpdate]:
    if has.shm:
        return [MountUpdate(position, {**mount, "type": "bind", "source": SANDBOX_SHM, "options": ["rbind"]})]
    options = ["noexec", "nosuid", "nodev", "mode=1777", f"size={DEFAULT_SHM}"]
    return [MountUpdate(position, {**mount, "type": "tmpfs", "source": "shm", "options": options})]


def _memory_volume(container_id: str, position: int, mount: Mount, has: Facilities) -> list[MountUpdate]:
    source = mount["source"].rstrip("/")
    storage = agent_pb2.Storage(driver="ephemeral", source="tmpfs", fstype="tmpfs")
    storage.shared = True  # it is the pod's: a container that is started again finds what it left there
    storage.mount_point = f"{EPHEMERAL}/{_pod_name(source)}"
    size = _tmpfs_bytes(source)
    storage.options.extend([*_group(source), *([f"size={size}"] if size else [])])
    return [MountUpdate(position, {**mount, "source": storage.mount_point}, storage=storage)]


def _empty_dir(container_id: str, position: int, mount: Mount, has: Facilities) -> list[MountUpdate]:
    """On the host's disk: one of its own, or through the share. Else a directory of the guest, of all containers."""
    if has.empty_dir_disks:
        return blockvolumes.empty_dir(container_id, position, mount, has)
    if has.share:
        return _shared(container_id, position, mount, has)
    source = mount["source"].rstrip("/")
    storage = agent_pb2.Storage(driver="local", source="local", fstype="local")
    storage.mount_point = f"{LOCAL}/{_pod_name(source)}"
    storage.options.extend(["mode=0777", *_group(source)])
    return [MountUpdate(position, {**mount, "source": storage.mount_point}, storage=storage)]


def _changing(container_id: str, position: int, mount: Mount, has: Facilities) -> list[MountUpdate]:
    """The guest keeps a copy that follows the host, where programs see changes by inotify; with a share by itself."""
    [update] = _shared(container_id, position, mount, has)
    if update.copy is not None:
        return [update._replace(copy=update.copy._replace(followed=True))]
    if update.share is None or update.mount is None:
        return [update]
    place = f"{WATCHABLE}/{update.share.name}"
    storage = agent_pb2.Storage(
        driver="watchable-bind", source=update.mount["source"], fstype="bind", options=["rbind"], mount_point=place
    )
    # Nobody in the guest may write through it to the host: the copy is what the container sees, and changes.
    share = update.share._replace(readonly=True)
    return [update._replace(mount={**mount, "source": place}, storage=storage, share=share)]


def _shared(container_id: str, position: int, mount: Mount, has: Facilities) -> list[MountUpdate]:
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
    # How the host propagates mounts is the host's affair: the share gets what is there.
    guests: Mount = {**mount, "source": f"{SHARE_MOUNT}/{name}"}
    if not has.share:
        return [MountUpdate(position, guests, copy=Copy(source, guests["source"]))]
    readonly = any(word in mount.get("options", []) for word in blockvolumes.READ_ONLY)
    return [MountUpdate(position, guests, share=Share(name, source, readonly))]


if TYPE_CHECKING:
    Handler = Callable[[str, int, Mount, Facilities], list[MountUpdate]]

HANDLERS: tuple[tuple[Callable[[Mount, Facilities], bool], Handler], ...] = (
    (lambda mount, _: not is_bind(mount), _keep),
    (lambda mount, _: blockvolumes.is_direct(mount), blockvolumes.direct),
    (_is_memory_volume, _memory_volume),
    (lambda mount, _: _is_shm(mount), _shm),
    (lambda mount, _: blockvolumes.is_block(mount), blockvolumes.node),
    (lambda mount, _: _is_guests_own(mount), _keep),
    (_is_empty_dir, _empty_dir),
    (_is_changing, _changing),
    (lambda mount, _: True, _shared),
)
"""The first that applies decides."""


def _pod_name(source: str) -> str:
    """The name of an emptyDir, the same for all containers of a pod: `<...>/kubernetes.io~empty-dir/<name>`."""
    return os.path.basename(source)


def _group(source: str) -> list[str]:
    gid = os.stat(source).st_gid
    return [f"fsgid={gid}"] if gid else []


def _tmpfs_bytes(source: str) -> int:
    """How much a tmpfs of the host may hold, in bytes; 0 for one without a limit."""
    found = os.statvfs(source)
    return found.f_blocks * found.f_frsize


def _fstype(path: str) -> str:
    """The type of the file system that is mounted at exactly this path; empty when none is."""
    from kata.linux.mounts import mount_points

    return next((point.fstype for point in reversed(mount_points()) if point.target == path), "")

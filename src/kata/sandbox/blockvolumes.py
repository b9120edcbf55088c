"""Mounts that are disks: direct-assigned volumes, bind mounts of a block device's node, emptyDirs of their own.

Three of the handlers of `volumes`, with the same rules: look at the host, return values, do nothing.
"""

from __future__ import annotations

import hashlib
import os
import stat
from typing import TYPE_CHECKING

from kata.protocol.generated import agent_pb2, types_pb2
from kata.sandbox.devices import is_readonly
from kata.sandbox.disks import empty_dir_plug, plug_of
from kata.sandbox.errors import ConfigError
from kata.sandbox.updates import PLUGGED, STORAGE, MountUpdate

if TYPE_CHECKING:
    from kata.oci.spec import LinuxDevice, Mount
    from kata.sandbox.updates import Facilities
    from kata.storage.directvolumes import DirectVolume

NAME_LIMIT = 255
READ_ONLY = ("ro", "rro")


def is_direct(mount: Mount) -> bool:
    """Whether a driver of storage has recorded what the source is. Raises VolumeError for a record of no use."""
    return _record(mount.get("source", "")) is not None


def is_block(mount: Mount) -> bool:
    """Whether the source is the node of a block device."""
    try:
        return stat.S_ISBLK(os.stat(mount.get("source", "")).st_mode)
    except OSError:
        return False


def volume_place(volume_path: str) -> str:
    """Where the guest mounts a direct volume."""
    from kata.storage.directvolumes import encode

    name = encode(volume_path)
    if len(name) > NAME_LIMIT:
        name = hashlib.sha256(os.fsencode(volume_path)).hexdigest()
    return f"{STORAGE}/{name}"


def direct(container_id: str, position: int, mount: Mount, has: Facilities) -> list[MountUpdate]:
    """The disk of the record, mounted by the guest, in place of the directory. Raises ConfigError, VolumeError."""
    source = mount["source"]
    volume = _record(source)
    if volume is None:
        raise ConfigError(f"the record of the direct volume {source} was removed meanwhile")
    readonly = "ro" in volume.options or any(word in mount.get("options", []) for word in READ_ONLY)
    storage = _storage(volume, volume_place(source), readonly=readonly)
    plug = plug_of(volume.device, readonly=readonly, volume=source)
    storage.source = plug.serial
    return [MountUpdate(position, {**mount, "source": storage.mount_point}, storage=storage, plug=plug)]


def node(container_id: str, position: int, mount: Mount, has: Facilities) -> list[MountUpdate]:
    """The device itself at the mount's destination. Raises ConfigError.

    Below /dev it is a node like others. Elsewhere the container's root may be unable to hold nodes (a share is), so
    the guest's node is bound there, and a node in /dev is what its cgroup's rule belongs to.
    """
    _refuse_link(mount["source"])
    info = os.stat(mount["source"])
    major, minor = os.major(info.st_rdev), os.minor(info.st_rdev)
    readonly = any(word in mount.get("options", []) for word in READ_ONLY) or is_readonly(major, minor)
    plug = plug_of(mount["source"], readonly=readonly)
    path = os.path.normpath(mount["destination"])
    bound = not path.startswith("/dev/")
    device: LinuxDevice = {
        "path": f"/dev/{plug.serial}" if bound else path,
        "type": "b",
        "major": major,
        "minor": minor,
        "fileMode": stat.S_IMODE(info.st_mode),
        "uid": info.st_uid,
        "gid": info.st_gid,
    }
    if not bound:
        return [MountUpdate(position, None, plug=plug, device=device)]
    place = f"{STORAGE}/{plug.serial}"
    storage = agent_pb2.Storage(driver=PLUGGED, source=plug.serial, fstype="bind", options=["bind"], mount_point=place)
    return [MountUpdate(position, {**mount, "source": place}, storage=storage, plug=plug, device=device)]


def empty_dir(container_id: str, position: int, mount: Mount, has: Facilities) -> list[MountUpdate]:
    """An emptyDir that is a disk, of all containers of the pod. Raises ConfigError.

    Its file is sparse and reads as zeros, so the guest need not write any; what it frees the host gets back.
    """
    plug = empty_dir_plug(os.path.normpath(mount["source"]))
    place = f"{STORAGE}/{plug.serial}"
    options = ["noinit_itable", "discard"]
    storage = agent_pb2.Storage(driver=PLUGGED, source=plug.serial, fstype="ext4", options=options, mount_point=place)
    return [MountUpdate(position, {**mount, "source": place}, storage=storage, plug=plug)]


def _refuse_link(source: str) -> None:
    """Raise ConfigError for a link that leads to a device, unless it is one of /dev, which are the host's.

    Whoever may write to a folder can make a link there, and must not get a disk of the host by it (CVE-2026-24054).
    """
    place = os.path.normpath(source)
    if not place.startswith("/dev/") and os.path.realpath(place) != place:
        raise ConfigError(
            f"the mount source {source} leads to a block device by a link", hint="name the device itself, below /dev"
        )


def _storage(volume: DirectVolume, place: str, *, readonly: bool) -> agent_pb2.Storage:
    options = [option for option in volume.options if option not in ("ro", "rw")] + (["ro"] if readonly else [])
    storage = agent_pb2.Storage(driver=PLUGGED, fstype=volume.fstype, options=options, mount_point=place)
    if volume.group is not None:
        storage.fs_group.group_id = volume.group
        storage.fs_group.group_change_policy = types_pb2.FSGroupChangePolicy.Value(volume.group_policy)
    return storage


def _record(source: str) -> DirectVolume | None:
    if not source.startswith("/"):
        return None
    from kata.storage.directvolumes import read

    return read(source)

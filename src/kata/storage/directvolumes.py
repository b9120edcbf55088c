"""The records of direct-assigned volumes: which disk a guest gets in place of a directory of the host.

A driver of storage writes one for each volume's path (`add`), usually by `kata direct-volume`; the sandbox reads it
when a container has that path among its mounts (`read`), and marks it as in use with an empty file named by the
sandbox (`mark`). Folder and keys are upstream's (protocol facts, sections 6 and 14):

    <direct volumes>/<base64url of the volume's path>/mountInfo.json
                                                      <sandbox id>

A record is believed no more than any other input: links are not followed, sizes and types are checked.
"""

from __future__ import annotations

import base64
import os
import re
import stat
from pathlib import Path

import msgspec

from kata import paths
from kata.storage.errors import VolumeError

RECORD = "mountInfo.json"
RECORD_LIMIT = 64 << 10
"""Bytes of a record, which has a few hundred."""
TYPES = ("block", "directvol")
"""Both mean a block device, or a file that is used like one; "directvol" is what upstream's newer runtime calls it."""
_FSTYPE = re.compile(r"[a-z0-9][a-z0-9_.-]{0,31}")
_SANDBOX = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
GROUP, POLICY = "fsGroup", "fsGroupChangePolicy"
_NOT_HERE = ("encryptionKey", "createFilesystem")
POLICIES = ("Always", "OnRootMismatch")
_LAST_ID = 0xFFFFFFFE


class DirectVolume(msgspec.Struct, frozen=True, rename={"volume_type": "volume-type"}):
    """One record. `options` are mount options of the guest."""

    volume_type: str
    device: str
    fstype: str
    metadata: dict[str, str] = {}
    options: list[str] = []

    @property
    def group(self) -> int | None:
        """The group that everything in the volume is given to."""
        return int(self.metadata[GROUP]) if self.metadata.get(GROUP) else None

    @property
    def group_policy(self) -> str:
        """When that is done, one of POLICIES."""
        return self.metadata.get(POLICY) or POLICIES[0]


def add(volume_path: str, record: bytes) -> None:
    """Write down what the volume at `volume_path` is; replaces what was there in one step. Raises VolumeError."""
    parse(record, volume_path)
    folder = _folder(volume_path)
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # else only the last one would be closed to others
    folder.mkdir(mode=0o700, exist_ok=True)
    temporary = folder / f".{RECORD}.{os.getpid()}"
    try:
        with temporary.open("xb") as file:
            file.write(record)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(folder / RECORD)
    finally:
        temporary.unlink(missing_ok=True)


def remove(volume_path: str) -> None:
    """Forget a volume; one that is not known is fine. Raises VolumeError while a sandbox uses it."""
    users = sandboxes(volume_path)
    if users:
        raise VolumeError(
            f"the volume {volume_path} is in use by sandbox {users[0]}", hint="remove its containers first"
        )
    folder = _folder(volume_path)
    (folder / RECORD).unlink(missing_ok=True)
    try:
        folder.rmdir()
    except FileNotFoundError:
        pass


def read(volume_path: str) -> DirectVolume | None:
    """What is recorded of a volume; None when nothing is. Raises VolumeError for a record that cannot be used."""
    try:
        folder = os.open(_folder(volume_path), os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(volume_path, f"its folder cannot be opened ({error.strerror})") from error
    try:
        data = _read(folder, volume_path)
    finally:
        os.close(folder)
    return None if data is None else parse(data, volume_path)


def parse(data: bytes, volume_path: str) -> DirectVolume:
    """A record's value. Raises VolumeError that names what is wrong with it."""
    if len(data) > RECORD_LIMIT:
        raise _unusable(volume_path, f"it has more than {RECORD_LIMIT >> 10} KiB")
    try:
        volume = msgspec.json.decode(data, type=DirectVolume)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _unusable(volume_path, str(error)) from error
    problem = _problem(volume)
    if problem:
        raise _unusable(volume_path, problem)
    return volume


def mark(volume_path: str, sandbox_id: str) -> None:
    """Say that a sandbox uses the volume. Raises VolumeError."""
    try:
        (_folder(volume_path) / _checked(sandbox_id)).touch(0o600)
    except OSError as error:
        raise VolumeError(f"the volume {volume_path} cannot be marked as in use: {error.strerror}") from error


def unmark(volume_path: str, sandbox_id: str) -> None:
    """Take the mark back. Idempotent."""
    (_folder(volume_path) / _checked(sandbox_id)).unlink(missing_ok=True)


def unmark_all(sandbox_id: str) -> None:
    """Take every mark of a sandbox back, for one whose process was killed."""
    try:
        for folder in paths.direct_volumes_dir().iterdir():
            (folder / _checked(sandbox_id)).unlink(missing_ok=True)
    except (FileNotFoundError, NotADirectoryError):
        pass


def sandboxes(volume_path: str) -> list[str]:
    """The sandboxes that use a volume. Raises VolumeError for a path that no volume can have."""
    try:
        return sorted(
            entry.name for entry in _folder(volume_path).iterdir() if entry.name != RECORD and entry.name[0] != "."
        )
    except FileNotFoundError:
        return []


def encode(path: str) -> str:
    """A path as one name, as drivers of storage write it (RFC 4648 section 5, with padding)."""
    return base64.urlsafe_b64encode(os.fsencode(path)).decode()


def _folder(volume_path: str) -> Path:
    if not volume_path.startswith("/") or "\0" in volume_path:
        raise VolumeError(f"{volume_path!r} is no absolute path", hint="give the path at which the volume is published")
    name = encode(volume_path)
    if len(name) > os.pathconf("/", "PC_NAME_MAX"):
        raise VolumeError(f"the path of the volume is too long for a record: {volume_path}")
    return paths.direct_volumes_dir() / name


def _checked(sandbox_id: str) -> str:
    if not _SANDBOX.fullmatch(sandbox_id) or sandbox_id == RECORD:
        raise VolumeError(f"{sandbox_id!r} is no id of a sandbox")
    return sandbox_id


def _read(folder: int, volume_path: str) -> bytes | None:
    try:
        fd = os.open(RECORD, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(volume_path, f"it cannot be opened ({error.strerror})") from error
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise _unusable(volume_path, "it is no regular file")
        return file.read(RECORD_LIMIT + 1)


def _problem(volume: DirectVolume) -> str:
    """What is wrong with a record whose types are right; empty for nothing."""
    if volume.volume_type not in TYPES:
        return f"volume-type {volume.volume_type[:40]!r} is not supported ({' and '.join(TYPES)} are)"
    if not volume.device.startswith("/") or "\0" in volume.device:
        return f"device {volume.device[:80]!r} is no absolute path"
    if not _FSTYPE.fullmatch(volume.fstype):
        return f"fstype {volume.fstype[:40]!r} is no file system"
    if any("\0" in option or "," in option for option in volume.options):
        return "an option holds a comma or a null byte"
    unsupported = next((key for key in _NOT_HERE if volume.metadata.get(key)), "")
    if unsupported:
        return f"metadata {unsupported} is not supported by this guest's agent"
    group = volume.metadata.get(GROUP, "")
    if group and not (group.isascii() and group.isdecimal() and len(group) < 11 and int(group) <= _LAST_ID):
        return f"metadata {GROUP} {group[:40]!r} is no group id"
    if volume.group_policy not in POLICIES:
        return f"metadata {POLICY} is {volume.group_policy[:40]!r}, not {' or '.join(POLICIES)}"
    return ""


def _unusable(volume_path: str, why: str) -> VolumeError:
    return VolumeError(
        f"the record of the direct volume {volume_path} cannot be used: {why}",
        hint=f"the driver of the volume writes it, in {paths.direct_volumes_dir()}",
    )

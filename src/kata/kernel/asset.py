"""Assets: files that a VM boots from, each with a manifest beside it that says what is in it.

Used by the kernel and the osbuilder room. An asset is replaced in one step (written beside its place, synced,
renamed), under a lock that one builder holds at a time, and its manifest is renamed after it: whoever is
interrupted leaves the old asset in place. Manifests hold no dates, so that the same inputs give the same bytes.
Nothing here may know how an asset is made.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from kata.kernel.errors import AssetError
from kata.linux import flock

LOCK_TIMEOUT = 900.0
"""Seconds to wait for another builder; a kernel build on two cores takes about 500."""
WORKSPACE = ".kata-"
"""How the names of builders' folders begin: whoever builds may do so in a folder that has other things in it."""


class Package(msgspec.Struct, frozen=True):
    """A Debian package that went into an asset; `sha256` is that of the .deb file."""

    name: str
    version: str
    sha256: str


class File(msgspec.Struct, frozen=True):
    """A regular file inside an asset; `size` is in bytes."""

    path: str
    size: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an asset is made of. `sha256` and `size` (bytes) are those of the asset, `inputs` a hash of what it
    was made from (see the maker), by which a stale asset is known without building it again.
    """

    name: str
    sha256: str
    size: int
    inputs: str = ""
    packages: tuple[Package, ...] = ()
    release: str = ""
    modules_at_boot: tuple[str, ...] = ()
    modules_on_demand: tuple[str, ...] = ()
    modules_built_in: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    files: tuple[File, ...] = ()
    agent_version: str = ""
    recipe: str = ""


def hash_file(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def manifest_path(asset: Path) -> Path:
    """Where the manifest of `asset` is."""
    return asset.with_name(asset.name + ".json")


def read_manifest(asset: Path) -> Manifest | None:
    """The manifest of `asset`, or None when it is missing, unreadable, or not of the asset's present size."""
    try:
        manifest = msgspec.json.decode(manifest_path(asset).read_bytes(), type=Manifest)
        return manifest if asset.stat().st_size == manifest.size else None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


@contextlib.contextmanager
def locked(directory: Path, timeout: float = LOCK_TIMEOUT) -> Iterator[None]:
    """Hold the builders' lock of `directory`, which is created when it is missing.

    Raises AssetError when another builder still holds it after `timeout` seconds.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        fd = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise explain(error, directory) from error
    try:
        _lock(fd, directory, timeout)
        yield
    finally:
        os.close(fd)


def _lock(fd: int, directory: Path, timeout: float) -> None:
    if flock.wait_lock(fd, timeout):
        return
    raise AssetError(
        f"another build in {directory} did not end within {timeout:.0f} s",
        hint="wait for it to end, or end it and try again",
    )


@contextlib.contextmanager
def workspace(directory: Path, prefix: str) -> Iterator[Path]:
    """A folder for half-made things on the file system of `directory`, removed at the end in any case.

    For the one who holds the builders' lock: what a builder has left that was killed goes first.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for stale in _workspaces(directory):
            shutil.rmtree(stale, ignore_errors=True)
        with tempfile.TemporaryDirectory(
            prefix=f"{WORKSPACE}{prefix}-", dir=directory, ignore_cleanup_errors=True
        ) as path:
            yield Path(path)
    except OSError as error:
        raise explain(error, directory) from error


def abandoned(directory: Path) -> list[Path]:
    """Workspaces of builders that were killed; none while somebody builds there."""
    found = _workspaces(directory)
    if not found:
        return []
    try:
        with locked(directory, 0.0):
            return [path for path in found if path.is_dir()]
    except AssetError:
        return []


def sweep(directory: Path) -> None:
    """Remove them. Raises AssetError while somebody builds there."""
    with locked(directory, 0.0):
        for path in _workspaces(directory):
            shutil.rmtree(path, ignore_errors=True)


def _workspaces(directory: Path) -> list[Path]:
    return [path for path in directory.glob(f"{WORKSPACE}*") if path.is_dir()]


def install(built: Path, place: Path) -> None:
    """Move a finished file to its place in one step. Both are on one file system.

    Raises AssetError when that cannot be; the old asset is then untouched.
    """
    try:
        built.chmod(0o644)
        with built.open("rb") as stream:
            os.fsync(stream.fileno())
        built.replace(place)
    except OSError as error:
        raise explain(error, place) from error


def publish(built: Path, place: Path, manifest: Manifest) -> None:
    """Put an asset and its manifest in place. A reader between the two renames sees an asset without a fitting
    manifest, which reads as stale.
    """
    install(built, place)
    write_manifest(built.parent, place, manifest)


def write_manifest(folder: Path, place: Path, manifest: Manifest) -> None:
    """Put the manifest of the asset at `place` beside it; `folder` is for the half-made file."""
    text = folder / (place.name + ".json")
    try:
        text.write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n")
    except OSError as error:
        raise explain(error, place) from error
    install(text, manifest_path(place))


def explain(error: OSError, path: Path) -> AssetError:
    """An OSError of a build as a sentence for people."""
    where = error.filename or path
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return AssetError(f"no space is left for {where}", hint=f"free some space on the file system of {path}")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return AssetError(f"{where} may not be written", hint="run as root, or set KATA_DATA_DIR to a folder of yours")
    return AssetError(f"{where}: {error.strerror or error}")

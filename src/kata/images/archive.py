"""One image as an OCI archive: a tar file with a layout in it, which podman, skopeo and `ctr` read.

Called by the store. The same image gives the same bytes. Never read archives here: skopeo does that.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from kata.images import layout
from kata.images.errors import ImageError
from kata.images.layout import CONTAINERD_NAME, REF_NAME, Descriptor, Index
from kata.images.names import qualify


def write(source: Path, manifest: Descriptor, blobs: Sequence[Descriptor], name: str, target: Path) -> None:
    """Write the image whose `blobs` are in the layout `source` to `target`, at once or not at all.

    Raises ImageError when `target` cannot be a file; OSError.
    """
    if not target.parent.is_dir() or (target.exists() and not target.is_file()):
        raise ImageError(f"{target} is no place for a file", hint="give the name of a file in an existing directory")
    temporary = target.with_name(f".{target.name[:200]}.{os.urandom(4).hex()}")
    try:
        with temporary.open("xb") as file:
            _write(file, source, manifest, blobs, name)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _write(file: io.BufferedWriter, source: Path, manifest: Descriptor, blobs: Sequence[Descriptor], name: str) -> None:
    index = msgspec.json.encode(Index([_named(manifest, name)]))
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        _add(archive, "oci-layout", len(layout.VERSION_DOCUMENT), io.BytesIO(layout.VERSION_DOCUMENT))
        _add(archive, "index.json", len(index), io.BytesIO(index))
        for descriptor in sorted({blob.digest: blob for blob in (manifest, *blobs)}.values(), key=lambda d: d.digest):
            path = layout.blob_path(source, descriptor.digest)
            with path.open("rb") as blob:
                _add(archive, f"blobs/sha256/{path.name}", descriptor.size, blob)


def _named(manifest: Descriptor, name: str) -> Descriptor:
    """podman takes the name from the first annotation, containerd from the second, which wants the long form."""
    annotations = {REF_NAME: name, CONTAINERD_NAME: qualify(name)} if name else None
    return Descriptor(manifest.media_type, manifest.digest, manifest.size, annotations)


def _add(archive: tarfile.TarFile, name: str, size: int, content: io.BufferedIOBase) -> None:
    member = tarfile.TarInfo(name)
    member.size = size
    archive.addfile(member, content)

"""OCI image layouts on disk: descriptors, manifests, the index and blobs, read strictly and written durably.

Facts: OCI image-spec 1.1, image-layout.md, descriptor.md, manifest.md. What is read is hostile: sizes are
bounded, digests have one form, and a blob's name never comes from anywhere but a checked digest. Called by the
store, by `skopeo` (what it copied) and by the makers of images. Never add unpacking here.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from kata.images.errors import MalformedImageError
from kata.images.names import DIGEST

MAX_DOCUMENT = 4 << 20
"""Bytes of a manifest, index or config: what registries must accept at least, and what skopeo reads at most."""
MAX_LAYERS = 256

REF_NAME = "org.opencontainers.image.ref.name"
CONTAINERD_NAME = "io.containerd.image.name"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
VERSION_DOCUMENT = b'{"imageLayoutVersion":"1.0.0"}'

Digest = Annotated[str, msgspec.Meta(pattern=rf"\A{DIGEST}\Z")]
Size = Annotated[int, msgspec.Meta(ge=0, le=1 << 50)]

_Document = TypeVar("_Document")


class Descriptor(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """A reference to a blob: its type, digest and size in bytes."""

    media_type: str
    digest: Digest
    size: Size
    annotations: dict[str, str] | None = None

    @property
    def name(self) -> str:
        """The image name that an index gives to a manifest, or nothing."""
        return (self.annotations or {}).get(REF_NAME, "")


class Manifest(msgspec.Struct, frozen=True, rename="camel"):
    """One image: a configuration and its layers, lowest first."""

    config: Descriptor
    layers: list[Descriptor]
    schema_version: int = 2
    media_type: str = MANIFEST_TYPE

    def blobs(self) -> Iterable[Descriptor]:
        """The configuration and the layers."""
        return (self.config, *self.layers)


class Index(msgspec.Struct, frozen=True, rename="camel"):
    """The entry points of a layout."""

    manifests: list[Descriptor] = []
    schema_version: int = 2
    media_type: str = INDEX_TYPE


def read_document(path: Path, kind: type[_Document], limit: int = MAX_DOCUMENT) -> _Document:
    """A JSON document of at most `limit` bytes. Raises MalformedImageError, or OSError when it cannot be opened."""
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise MalformedImageError(f"{path.name} of an image is larger than {limit >> 20} MiB")
    return decode(data, kind)


def decode(data: bytes, kind: type[_Document]) -> _Document:
    """Strict JSON: types as declared, nothing converted. Raises MalformedImageError."""
    try:
        return msgspec.json.decode(data, type=kind, strict=True)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedImageError(f"the image's {kind.__name__.lower()} is malformed", detail=str(error)) from None


def blob_path(layout: Path, digest: str) -> Path:
    """Where a blob lies; `digest` comes from a checked descriptor."""
    return layout / "blobs" / "sha256" / digest.removeprefix("sha256:")


def read_index(layout: Path) -> Index:
    """The index of a layout. Raises MalformedImageError, OSError."""
    return read_document(layout / "index.json", Index)


def read_manifest(layout: Path, descriptor: Descriptor) -> Manifest:
    """The manifest of one image. Raises MalformedImageError also for what is no container image at all."""
    manifest = read_document(blob_path(layout, descriptor.digest), Manifest)
    if manifest.config.media_type != CONFIG_TYPE:
        raise MalformedImageError(
            f"this is no container image: its configuration is of type {manifest.config.media_type[:100]!r}"
        )
    if len(manifest.layers) > MAX_LAYERS:
        raise MalformedImageError(f"the image has {len(manifest.layers)} layers; {MAX_LAYERS} are accepted")
    return manifest


def create(layout: Path) -> None:
    """An empty layout at `layout`; harmless where one is."""
    (layout / "blobs" / "sha256").mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, content in (("oci-layout", VERSION_DOCUMENT), ("index.json", msgspec.json.encode(Index()))):
        if not (layout / name).exists():
            write_durably(layout / name, content)


def add_blob(layout: Path, media_type: str, content: bytes) -> Descriptor:
    """Write a blob and return its descriptor."""
    import hashlib  # loads OpenSSL; the way to a cached root filesystem does without

    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    blob_path(layout, digest).write_bytes(content)
    return Descriptor(media_type, digest, len(content))


def add_file(layout: Path, media_type: str, file: Path) -> Descriptor:
    """Move `file` into the layout as a blob and return its descriptor."""
    import hashlib

    with file.open("rb") as stream:
        digest = f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"
        size = os.fstat(stream.fileno()).st_size
    file.rename(blob_path(layout, digest))
    return Descriptor(media_type, digest, size)


def write_index(layout: Path, manifests: Iterable[Descriptor]) -> None:
    """Replace the index: readers see the old one or the new one."""
    write_durably(layout / "index.json", msgspec.json.encode(Index(list(manifests))))


def write_durably(path: Path, content: bytes) -> None:
    """Write a file that is there completely or not at all, after a power cut as well. Mode 0600."""
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(fd)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """fsync a file or a directory."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

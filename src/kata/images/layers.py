"""A look through layers before umoci unpacks them: how much they will take, and whether they are sane.

umoci keeps absolute and `..` names inside the root (tests/kernel/test_images_hostile.py holds it to that), but it
lets a whiteout named `.wh...` remove the root's parent, unpacks bombs until the disk is full, and reads what a
header claims into memory. Those end here. Called by `unpack`. Never write anything here.
"""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from pathlib import Path
from typing import NamedTuple

from kata.images.errors import MalformedImageError, NoSpaceError
from kata.images.layout import LAYER_TYPE

MAX_ENTRIES = 4_000_000
MAX_HEADER = 1 << 20
"""Bytes of one extended header, the limit of Go's archive/tar, so umoci's."""
MAX_DEPTH = 256
"""Names in one path: umoci's time grows with the square of it, to many minutes at what PATH_MAX allows."""
BLOCK = 4096

_EXTENDED = (
    tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK,
)  # fmt: skip
_FORBIDDEN_WHITEOUTS = (".wh.", ".wh..", ".wh...")


class Footprint(NamedTuple):
    """What unpacking takes at most: bytes (in whole blocks) and inodes."""

    size: int
    entries: int


class _Member(tarfile.TarInfo):
    """A header; extended ones are read into memory, so their claimed size is checked first."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _EXTENDED and self.size > MAX_HEADER:
            raise MalformedImageError("a layer of the image has an extended header larger than 1 MiB")
        return super()._proc_member(archive)  # type: ignore[misc, no-any-return]  # meant for overriding, says tarfile


def measure(layers: list[tuple[Path, str]], limit: int) -> Footprint:
    """The footprint of all layers (blob and media type), bottom to top.

    Stops with NoSpaceError beyond `limit` bytes; raises MalformedImageError.
    """
    size = entries = 0
    for blob, media_type in layers:
        try:
            with blob.open("rb") as file, _decompress(file, media_type) as stream:
                more = _measure_layer(stream, limit - size, MAX_ENTRIES - entries)
        except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError, OverflowError) as error:
            raise MalformedImageError(
                f"layer {blob.name[:12]} of the image is no readable tar archive", detail=str(error)
            ) from None
        size, entries = size + more.size, entries + more.entries
    return Footprint(size, entries)


def _decompress(file: io.BufferedReader, media_type: str) -> io.BufferedReader | gzip.GzipFile:
    if media_type == LAYER_TYPE:
        return file
    if media_type == f"{LAYER_TYPE}+gzip":
        return gzip.GzipFile(fileobj=file)
    raise MalformedImageError(f"a layer of the image is of type {media_type[:100]!r}, which cannot be unpacked")


def _measure_layer(stream: io.BufferedReader | gzip.GzipFile, limit: int, max_entries: int) -> Footprint:
    size = entries = 0
    with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Member) as archive:
        while (member := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # tarfile would keep every header there is
            _check_name(member.name)
            size += _round(member.size) if member.isreg() else BLOCK if member.isdir() else 0
            entries += 1
            if size > limit or entries > max_entries:
                raise NoSpaceError(
                    f"the image unpacks to more than the {max(limit, 0) >> 20} MiB that there is space for",
                    hint="remove images (`kata image rm`), if this image is meant to be that large",
                )
    return Footprint(size, entries)


def _check_name(name: str) -> None:
    parts = name.split("/")
    if ".." in parts:
        raise MalformedImageError(f"a layer of the image has a path that leaves its root: {name[:200]!r}")
    if len(parts) > MAX_DEPTH:
        raise MalformedImageError(f"a layer of the image nests more than {MAX_DEPTH} directories")
    if parts[-1] in _FORBIDDEN_WHITEOUTS:
        raise MalformedImageError(f"a layer of the image removes what is not its own: {name[:200]!r}")


def _round(size: int) -> int:
    return -(-size // BLOCK) * BLOCK

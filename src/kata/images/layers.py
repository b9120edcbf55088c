"""A look through layers before umoci unpacks them: how much they will take, and whether they are sane.

umoci keeps absolute and `..` names inside the root (tests/kernel/test_images_hostile.py holds it to that), but it
lets a whiteout named `.wh...` remove the root's parent, unpacks bombs until the disk is full, and reads what a
header claims into memory. Those end here. Called by `unpack`. Never write anything here.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import BinaryIO, NamedTuple

from kata.images.errors import MalformedImageError, NoSpaceError
from kata.images.layout import LAYER_TYPE
from kata.images.tarheaders import BadArchiveError, Bounded, Stream, TarReader

MAX_ENTRIES = 4_000_000
"""Of all layers; a header that only says more of the next one counts as well."""
MAX_DEPTH = 256
"""Names in one path: umoci's time grows with the square of it, to many minutes at what PATH_MAX allows."""
BLOCK = 4096

_FORBIDDEN_WHITEOUTS = (".wh.", ".wh..", ".wh...")


class Footprint(NamedTuple):
    """What unpacking takes at most: bytes (in whole blocks) and inodes."""

    size: int
    entries: int


def measure(layers: list[tuple[Path, str]], limit: int) -> Footprint:
    """The footprint of all layers (blob and media type), bottom to top.

    Stops with NoSpaceError beyond `limit` bytes; raises MalformedImageError.
    """
    size = entries = 0
    for blob, media_type in layers:
        try:
            with blob.open("rb") as file:
                more = _measure_layer(_decompress(file, media_type), limit - size, MAX_ENTRIES - entries)
        except BadArchiveError as error:
            raise MalformedImageError(
                f"layer {blob.name[:12]} of the image is no readable tar archive", detail=str(error)
            ) from None
        size, entries = size + more.size, entries + more.entries
    return Footprint(size, entries)


def _decompress(file: BinaryIO, media_type: str) -> Stream:
    if media_type == LAYER_TYPE:
        return file
    if media_type == f"{LAYER_TYPE}+gzip":
        return Bounded(gzip.GzipFile(fileobj=file))
    raise MalformedImageError(f"a layer of the image is of type {media_type[:100]!r}, which cannot be unpacked")


def _measure_layer(stream: Stream, limit: int, max_entries: int) -> Footprint:
    size = entries = 0
    archive = TarReader(stream)
    while (member := archive.next()) is not None:
        _check_name(member.name)
        size += _round(member.size) if member.is_file else BLOCK if member.is_directory else 0
        entries += 1
        if size > limit or archive.headers > max_entries:
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

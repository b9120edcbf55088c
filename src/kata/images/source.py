"""What a word after `kata run` or `kata image import` means: where an image is to be had.

In this order: an explicit prefix (skopeo's `oci:`, `oci-archive:`, `docker-archive:`, `dir:`, `docker://`; ours
`rootfs:DIR` and `apt://busybox-static`); a path (always when it starts with `/`, `./` or `../`, else when it
exists), judged by what is there; else a name in a registry. The store asks itself first, for plain names.
Pure but for the look at a path, which a caller can replace. Never copy anything here.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from kata.images import names
from kata.images.errors import ImageNotFoundError, InvalidNameError

BUSYBOX_WORD = "apt://busybox-static"
MAX_REFERENCE = 4096
MAX_MEMBERS = 10000
"""How many members of an archive are looked at to learn its kind."""


class Kind(enum.Enum):
    """Where an image comes from; the values are skopeo's transports where it has one."""

    OCI = "oci"
    OCI_ARCHIVE = "oci-archive"
    DOCKER_ARCHIVE = "docker-archive"
    SKOPEO_DIR = "dir"
    REGISTRY = "docker"
    ROOTFS = "rootfs"
    BUSYBOX = "apt"


class Source(msgspec.Struct, frozen=True):
    """One image somewhere: a path (with `ref` choosing among several there), or a registry's long name."""

    kind: Kind
    path: str = ""
    ref: str = ""

    @property
    def name(self) -> str:
        """The name that goes without saying, or nothing."""
        if self.kind is Kind.BUSYBOX:
            return "busybox:latest"
        return names.normalise(self.path) if self.kind is Kind.REGISTRY else ""


_PREFIXES = {kind.value: kind for kind in Kind if kind not in (Kind.REGISTRY, Kind.BUSYBOX)}
_REFUSED = ("containers-storage", "docker-daemon", "ostree", "sif", "tarball")
_HINT = "`kata image import --help` lists the forms"


def is_explicit(reference: str) -> bool:
    """Whether a reference says itself that it is not a plain name: it has a prefix, or looks like a path."""
    prefix = reference.partition(":")[0]
    return "://" in reference or prefix in _PREFIXES or prefix in _REFUSED or _is_path(reference)


def classify(reference: str, look: Callable[[str], Kind | None] | None = None) -> Source:
    """What `reference` means. `look` tells what is at a path, None when nothing is (default: `look_at`).

    Raises InvalidNameError, ImageNotFoundError.
    """
    look = look or look_at
    if not reference or len(reference) > MAX_REFERENCE or not reference.isprintable():
        raise InvalidNameError(f"{reference[:80]!r} is no image reference", hint=_HINT)
    prefix, colon, rest = reference.partition(":")
    if "://" in reference:
        return _classify_url(reference)
    if colon and prefix in _REFUSED:
        raise InvalidNameError(f"images cannot be had from {prefix}:", hint=_HINT)
    if colon and prefix in _PREFIXES:
        return _classify_prefixed(_PREFIXES[prefix], rest, reference)
    return _classify_path(reference, look) or Source(Kind.REGISTRY, names.qualify(reference))


def look_at(path: str) -> Kind | None:
    """What kind of image is at `path`; None when nothing is there. Raises InvalidNameError for other things."""
    place = Path(path)
    try:
        if place.is_dir():
            return _look_at_directory(place)
        if place.is_file():
            return _look_at_archive(place)
        if not place.exists():
            return None
    except OSError as error:
        raise ImageNotFoundError(f"{path} cannot be read: {error.strerror}") from None
    raise InvalidNameError(f"{path} is neither a file nor a directory", hint=_HINT)


def _is_path(reference: str) -> bool:
    return reference in (".", "..") or reference.startswith(("/", "./", "../"))


def _classify_url(reference: str) -> Source:
    scheme, _, rest = reference.partition("://")
    if scheme == "docker":
        return Source(Kind.REGISTRY, names.qualify(rest))
    if reference == BUSYBOX_WORD:
        return Source(Kind.BUSYBOX)
    if scheme == "apt":
        raise InvalidNameError(f"{reference[:80]!r}: one Debian package can become an image", hint=BUSYBOX_WORD)
    raise InvalidNameError(f"images cannot be had from {scheme[:40]}://", hint=_HINT)


def _classify_prefixed(kind: Kind, rest: str, reference: str) -> Source:
    path, _, ref = rest.partition(":")
    if not path or (ref and kind in (Kind.SKOPEO_DIR, Kind.ROOTFS)):
        raise InvalidNameError(f"{reference[:80]!r} is not {kind.value}:PATH", hint=_HINT)
    return Source(kind, os.path.abspath(path), ref)


def _classify_path(reference: str, look: Callable[[str], Kind | None]) -> Source | None:
    """A source when `reference`, or what is before its last colon, is a path of an image."""
    kind = look(reference)
    path, colon, ref = reference.rpartition(":")
    if kind is None and colon and "/" not in ref and path:
        kind = look(path)
        if kind not in (Kind.OCI, Kind.OCI_ARCHIVE, Kind.DOCKER_ARCHIVE):
            kind = None
    else:
        path, ref = reference, ""
    if kind is not None:
        return Source(kind, os.path.abspath(path), ref)
    if _is_path(reference):
        raise ImageNotFoundError(f"there is no {reference}", hint="check the path; names of images have no ./ first")
    return None


def _look_at_directory(path: Path) -> Kind:
    if (path / "oci-layout").is_file():
        return Kind.OCI
    if (path / "manifest.json").is_file() and (path / "version").is_file():
        return Kind.SKOPEO_DIR
    return Kind.ROOTFS


def _look_at_archive(path: Path) -> Kind:
    """OCI wins where an archive is both (as `docker save` and `ctr export` make them): it keeps digests."""
    from kata.images.tarheaders import BadArchiveError, open_archive  # only for files

    seen: set[str] = set()
    try:
        with open_archive(path) as archive:
            for _ in range(MAX_MEMBERS):
                member = archive.next()
                if member is None or "oci-layout" in seen:
                    break
                seen.add(member.name.removeprefix("./"))
    except (BadArchiveError, OSError):
        seen = set()
    if "oci-layout" in seen:
        return Kind.OCI_ARCHIVE
    if "manifest.json" in seen:
        return Kind.DOCKER_ARCHIVE
    raise InvalidNameError(
        f"{path} is no image: neither an OCI archive nor one of `docker save`",
        hint="unpack a plain tar of a root filesystem and give the directory",
    )

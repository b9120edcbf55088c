"""The name under which a file or directory is imported when its user gives none.

What an archive says of itself comes first, then the file's name. Called by the store for imports only: an archive
that is merely run must not take a name away from another image. Never trust the name beyond its grammar.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TypeVar

import msgspec

from kata.images import layout, names
from kata.images.errors import InvalidNameError, MalformedImageError
from kata.images.layout import CONTAINERD_NAME, REF_NAME, Index
from kata.images.source import MAX_MEMBERS, Kind, Source
from kata.images.tarheaders import BadArchiveError, open_archive

_SUFFIX = re.compile(r"\.(?:tar|oci|tar\.\w+|tgz|tzst|txz)$")

_Document = TypeVar("_Document")


class _DockerImage(msgspec.Struct, frozen=True, rename="pascal"):
    """An entry of manifest.json in an archive of `docker save`."""

    repo_tags: list[str] | None = None


def suggest(source: Source) -> str:
    """A normalised name. Raises InvalidNameError when nothing makes one."""
    if source.name:
        return source.name
    path = Path(source.path)
    own, tag = _own_name(source, path)
    if own:
        return own
    stem = _SUFFIX.sub("", path.name).lower()
    try:
        return names.normalise(f"{stem}:{tag}" if tag else stem)
    except InvalidNameError:
        raise InvalidNameError(
            f"{path.name!r} makes no image name", hint="give one: kata image import SOURCE NAME"
        ) from None


def _own_name(source: Source, path: Path) -> tuple[str, str]:
    """The name that the source carries, or a tag without a name."""
    try:
        if source.kind is Kind.OCI:
            return _index_name(layout.read_index(path), source.ref)
        if source.kind is Kind.OCI_ARCHIVE:
            return _index_name(_read_member(path, "index.json", Index), source.ref)
        if source.kind is Kind.DOCKER_ARCHIVE:
            return _docker_name(_read_member(path, "manifest.json", list[_DockerImage]), source.ref), ""
    except (MalformedImageError, BadArchiveError, OSError):
        pass  # skopeo reads it next, and says what is wrong with it
    return "", ""


def _index_name(index: Index, ref: str) -> tuple[str, str]:
    for descriptor in index.manifests:
        if ref in ("", descriptor.name):
            said = descriptor.annotations or {}
            for name in (said.get(CONTAINERD_NAME, ""), said.get(REF_NAME, "")):
                if (":" in name or "/" in name) and _valid(name):
                    return _valid(name), ""
            return "", descriptor.name
    return "", ""


def _docker_name(images: list[_DockerImage], ref: str) -> str:
    tags = [tag for image in images for tag in image.repo_tags or ()]
    return next((_valid(tag) for tag in (ref, *tags) if _valid(tag)), "")


def _valid(name: str) -> str:
    try:
        return names.normalise(name) if name else ""
    except InvalidNameError:
        return ""


def _read_member(path: Path, name: str, kind: type[_Document]) -> _Document:
    with open_archive(path) as archive:
        for _ in range(MAX_MEMBERS):
            member = archive.next()
            if member is None:
                break
            if member.name.removeprefix("./") == name and member.is_file:
                return layout.decode(archive.content(layout.MAX_DOCUMENT), kind)
    raise MalformedImageError(f"{path} has no {name}")

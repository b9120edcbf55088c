"""The local store of container images, and the way from a word to a root filesystem.

One OCI layout holds all images, so that they share blobs; `rootfs` caches an erofs file for each manifest:

    oci/            oci-layout, index.json (a name for each image, or none), blobs/sha256/
    rootfs/         <manifest's digest>.erofs and .content
    work/           what is being made (see `workspace`)
    lock            shared by readers for moments, exclusive while the index, blobs or caches change
    build.lock      one root filesystem at a time: it takes a whole disk and CPU

Copying, unpacking and building happen in `work` under no lock that readers need; publishing is renames. Called by
`kata image` and `kata run`. What only imports and builds need is loaded by them, not at the start of every run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from kata import paths
from kata.images import config, layout, names
from kata.images.config import ImageConfig
from kata.images.errors import (
    ImageError,
    ImageNotFoundError,
    InvalidNameError,
    MalformedImageError,
)
from kata.images.layout import Descriptor, Manifest, blob_path
from kata.images.lock import locked
from kata.images.rootfs import Content, Rootfs
from kata.images.source import BUSYBOX_WORD, Kind, Source, classify, is_explicit

if TYPE_CHECKING:
    from kata.images.workspace import Progress

LOCK_TIMEOUT = 60.0
BUILD_TIMEOUT = 1800.0
SHORTEST_DIGEST = 12

Entries: TypeAlias = Sequence[Descriptor]


class Image(msgspec.Struct, frozen=True):
    """An image of the store, or a directory used as one.

    `name` is empty when it has none. `size` counts its blobs in bytes. `directory` is set for directories only,
    which have no digest.
    """

    name: str
    digest: str
    size: int = 0
    created: str = ""
    architecture: str = ""
    directory: str = ""


def import_busybox(store: ImageStore, progress: Progress) -> Image:
    """Make or renew `busybox:latest` from Debian's package. Raises ImageError, ProcessError."""
    return store.import_(BUSYBOX_WORD, progress=progress)


def _ignore(_: str) -> None:
    """The progress callable of those who do not want to hear."""


class ImageStore:
    """Images below one directory; any number of processes and threads may use it at once."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or paths.images_dir()
        if ":" in str(self.root):
            raise ImageError(f"the image store's path {self.root} has a colon, which skopeo and umoci cannot take")
        self.layout = self.root / "oci"
        self.caches = self.root / "rootfs"
        self.work = self.root / "work"

    # Section: looking

    def list(self) -> list[Image]:
        """All images, by name; those without one last. Raises MalformedImageError."""
        with self._reading() as entries:
            images = [self._describe(entry) for entry in entries]
        return sorted(images, key=lambda image: (not image.name, image.name, image.digest))

    def get(self, name: str) -> Image:
        """The image of that name, digest, or beginning of a digest. Raises ImageNotFoundError, InvalidNameError."""
        with self._reading() as entries:
            return self._describe(self._find(entries, name))

    def inspect(self, image: Image) -> ImageConfig:
        """What the image's author says about how to run it. Raises ImageNotFoundError, MalformedImageError."""
        if image.directory:
            from kata.images import directory

            return directory.configuration()
        with self._reading() as entries:
            return config.read(self.layout, self._read_manifest(self._find(entries, image.digest)))

    # Section: changing

    def import_(self, source: str, name: str | None = None, progress: Progress = _ignore) -> Image:
        """Copy an image into the store, as `name` or as it is called where it comes from; replaces that name.

        Raises ImageError; nothing of a failed import stays.
        """
        origin = classify(source)
        if name is not None:
            return self._import(origin, names.normalise(name), progress)
        from kata.images import label

        return self._import(origin, label.suggest(origin), progress)

    def export(self, name: str, file: Path) -> None:
        """Write an image as an OCI archive. Raises ImageNotFoundError, ImageError, NoSpaceError."""
        from kata.images import archive

        with self._workspace() as work:
            descriptor, manifest = self._link_blobs(name, work / "layout")
            archive.write(work / "layout", descriptor, tuple(manifest.blobs()), descriptor.name, file)

    def remove(self, name: str) -> None:
        """Forget an image (by digest: under all its names); blobs and caches that nobody else uses go too."""
        with self._writing():
            entries = self._read_entries()
            chosen = self._find(entries, name)
            by_name = chosen.name and chosen.name == _normalised(name)
            gone = [chosen] if by_name else [entry for entry in entries if entry.digest == chosen.digest]
            layout.write_index(self.layout, [entry for entry in entries if entry not in gone])
            self._collect_garbage()

    def resolve(self, reference: str, progress: Progress = _ignore) -> Image:
        """The image that `kata run REFERENCE` means: of the store, or copied into it now; a directory as it is.

        What comes from a file gets no name. Raises ImageNotFoundError naming what was tried, ImageError.
        """
        if not is_explicit(reference):
            try:
                return self.get(reference)
            except (ImageNotFoundError, InvalidNameError):
                pass  # the path of a file, perhaps, which may have any name
        source = classify(reference)
        if source.kind is Kind.ROOTFS:
            return self._use_directory(Path(source.path))
        if source.kind is not Kind.REGISTRY:
            return self._import(source, source.name, progress)
        try:
            return self.get(source.name)  # docker://NAME that is here already
        except ImageNotFoundError:
            pass
        try:
            return self._import(source, source.name, progress)
        except ImageError as error:
            raise _not_found(reference, source, error) from error

    def rootfs(self, image: Image, progress: Progress = _ignore) -> Rootfs:
        """A read-only root filesystem of an image, made on the first use; the caller closes it.

        Raises MalformedImageError, WrongPlatformError, NoSpaceError, ImageNotFoundError, ImageError.
        """
        if image.directory:
            return self._build_directory(Path(image.directory), progress)
        cached = self._open_cached(image.digest)
        if cached:
            return cached
        self._make_directories()
        with locked(self.root / "build.lock", timeout=BUILD_TIMEOUT):
            return self._open_cached(image.digest) or self._build_image(image.digest, progress)

    # Section: reading under the lock

    @contextmanager
    def _reading(self) -> Iterator[Entries]:
        if not (self.root / "lock").exists():
            yield []
            return
        with locked(self.root / "lock", timeout=LOCK_TIMEOUT, shared=True):
            yield self._read_entries()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        self._make_directories()
        with locked(self.root / "lock", timeout=LOCK_TIMEOUT):
            layout.create(self.layout)
            yield

    def _read_entries(self) -> Entries:
        try:
            return layout.read_index(self.layout).manifests
        except FileNotFoundError:
            return []

    def _find(self, entries: Entries, name: str) -> Descriptor:
        """The entry of that name, else with that digest or beginning of one."""
        wanted = _normalised(name)
        for entry in entries:
            if wanted and entry.name == wanted:
                return entry
        digits = name.removeprefix("sha256:")
        matches = {
            entry.digest: entry
            for entry in entries
            if len(digits) >= SHORTEST_DIGEST and entry.digest.startswith(f"sha256:{digits}")
        }
        if len(matches) == 1:
            return next(iter(matches.values()))
        if not wanted:
            names.normalise(name)  # says what is wrong with it, unless it is a digest
        raise ImageNotFoundError(
            f"there is no image {name} in the local store", hint="`kata image ls` shows what there is"
        )

    def _describe(self, entry: Descriptor) -> Image:
        manifest = self._read_manifest(entry)
        said = config.read(self.layout, manifest)
        size = entry.size + sum(blob.size for blob in manifest.blobs())
        return Image(entry.name, entry.digest, size, said.created, said.architecture)

    def _read_manifest(self, entry: Descriptor) -> Manifest:
        try:
            return layout.read_manifest(self.layout, entry)
        except FileNotFoundError:
            raise MalformedImageError(
                f"image {entry.name or entry.digest} has lost its manifest", hint="import it again"
            ) from None

    # Section: changing under the lock

    def _import(self, source: Source, name: str, progress: Progress) -> Image:
        with self._workspace() as work:
            fetched = self._fetch(source, work, progress)
            descriptor = _check_layout(fetched)
            self._publish(fetched, descriptor, name)
        return self.get(descriptor.digest) if not name else self.get(name)

    def _fetch(self, source: Source, work: Path, progress: Progress) -> Path:
        """A layout in `work` with one image."""
        if source.kind is Kind.ROOTFS:
            from kata.images import directory

            directory.require_usable(Path(source.path), self.root)
            return directory.pack(Path(source.path), work, progress)
        if source.kind is Kind.BUSYBOX:
            from kata.images import busybox

            return busybox.build(work, progress)
        from kata.images import skopeo

        progress(f"copying {source.kind.value}:{source.path}")
        return skopeo.fetch(source, work)

    def _publish(self, fetched: Path, descriptor: Descriptor, name: str) -> None:
        """Move blobs over and name the image; the new data is on the disk before the index speaks of it."""
        blobs = (descriptor, *layout.read_manifest(fetched, descriptor).blobs())
        for blob in blobs:
            layout.sync(blob_path(fetched, blob.digest))
        annotations = {layout.REF_NAME: name} if name else None
        entry = Descriptor(layout.MANIFEST_TYPE, descriptor.digest, descriptor.size, annotations)
        with self._writing():
            for digest in {blob.digest for blob in blobs}:
                target = blob_path(self.layout, digest)
                blob_path(fetched, digest).replace(target)
                target.chmod(0o600)
            layout.sync(self.layout / "blobs" / "sha256")
            kept = [other for other in self._read_entries() if not name or other.name != name]
            known = not name and any(other.digest == entry.digest for other in kept)
            layout.write_index(self.layout, kept if known else [*kept, entry])
            self._collect_garbage()

    def _collect_garbage(self) -> None:
        """Remove blobs and caches that no entry of the index leads to."""
        used: set[str] = set()
        for entry in self._read_entries():
            try:
                blobs = self._read_manifest(entry).blobs()
            except MalformedImageError:
                return  # what it uses cannot be known, so everything stays
            used.update(blob.digest.removeprefix("sha256:") for blob in (entry, *blobs))
        for place in (self.layout / "blobs" / "sha256", self.caches):
            for file in place.iterdir():
                if file.name.partition(".")[0] not in used:
                    file.unlink()

    def _link_blobs(self, name: str, target: Path) -> tuple[Descriptor, Manifest]:
        """A layout of one image that `remove` can do nothing to. Raises ImageNotFoundError, MalformedImageError."""
        layout.create(target)
        with self._reading() as entries:
            entry = self._find(entries, name)
            manifest = self._read_manifest(entry)
            for digest in {blob.digest for blob in (entry, *manifest.blobs())}:
                os.link(blob_path(self.layout, digest), blob_path(target, digest))
        alone = Descriptor(entry.media_type, entry.digest, entry.size, {layout.REF_NAME: "image"})
        layout.write_index(target, [alone])
        return entry, manifest

    # Section: root filesystems

    def _open_cached(self, digest: str) -> Rootfs | None:
        with self._reading() as entries:
            said = config.read(self.layout, self._read_manifest(self._find(entries, digest)))
            config.require_platform(said)
            path = self._cache_path(digest)
            try:
                content = layout.read_document(path.with_suffix(".content"), Content)
                return Rootfs(path, os.open(path, os.O_RDONLY | os.O_CLOEXEC), said, content)
            except FileNotFoundError:
                return None

    def _build_image(self, digest: str, progress: Progress) -> Rootfs:
        from kata.images import unpack, workspace

        with self._workspace() as work:
            _, manifest = self._link_blobs(digest, work / "layout")
            said = config.read(work / "layout", manifest)
            built, content = unpack.build(work / "layout", manifest, said.volumes, digest, work, progress)
            layout.sync(built)
            with self._writing():
                if any(entry.digest == digest for entry in self._read_entries()):
                    return self._cache(built, digest, said, content)
            # Removed meanwhile: good for this caller alone.
            path, fd = workspace.adopt(self.work, built)
            return Rootfs(path, fd, said, content, temporary=True)

    def _cache(self, built: Path, digest: str, said: ImageConfig, content: Content) -> Rootfs:
        path = self._cache_path(digest)
        layout.write_durably(path.with_suffix(".content"), msgspec.json.encode(content))
        built.replace(path)
        layout.sync(self.caches)
        return Rootfs(path, os.open(path, os.O_RDONLY | os.O_CLOEXEC), said, content)

    def _cache_path(self, digest: str) -> Path:
        return self.caches / f"{digest.removeprefix('sha256:')}.erofs"

    def _use_directory(self, path: Path) -> Image:
        from kata.images import directory

        directory.require_usable(path, self.root)
        said = directory.configuration()
        return Image("", "", architecture=said.architecture, directory=str(path))

    def _build_directory(self, path: Path, progress: Progress) -> Rootfs:
        from kata.images import directory, workspace

        directory.require_usable(path, self.root)
        with self._workspace() as work:
            built, content = directory.build(path, work, progress)
            target, fd = workspace.adopt(self.work, built)
        return Rootfs(target, fd, directory.configuration(), content, temporary=True)

    def _workspace(self) -> AbstractContextManager[Path]:
        from kata.images import workspace

        self._make_directories()
        return workspace.workspace(self.work)

    def _make_directories(self) -> None:
        for path in (self.root, self.caches, self.work):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)


def _normalised(name: str) -> str:
    """The name in the store's form, or nothing when it cannot be a name."""
    try:
        return names.normalise(name)
    except InvalidNameError:
        return ""


def _check_layout(fetched: Path) -> Descriptor:
    """The one image of a layout just made, after a look at all that will be relied on."""
    entries = layout.read_index(fetched).manifests
    if len(entries) != 1:
        raise MalformedImageError(f"one image was expected, {len(entries)} came")
    manifest = layout.read_manifest(fetched, entries[0])
    config.read(fetched, manifest)
    for blob in manifest.blobs():
        path = blob_path(fetched, blob.digest)
        if not path.is_file() or path.stat().st_size != blob.size:
            raise MalformedImageError(f"blob {blob.digest} of the image is missing or cut off")
    return entries[0]


def _not_found(reference: str, source: Source, error: ImageError) -> ImageError:
    """What was tried for a name that is nowhere. Errors that are no copying error stay what they are."""
    if type(error) is not ImageError:
        return error
    host = source.path.partition("/")[0]
    return ImageNotFoundError(
        f"there is no image {reference}: not in the local store, not a file, and {host} did not give it",
        hint=f"`kata image ls` shows what is here; `kata image import {BUSYBOX_WORD}` makes a small busybox image",
        detail=error.detail,
    )

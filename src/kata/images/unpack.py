"""From an image in a layout to an erofs file: umoci unpacks, mkfs.erofs packs, and only one tree exists meanwhile.

Called by the store within its workspace. Never run anything of the image, and never read its tree by plain paths.
"""

from __future__ import annotations

import os
from pathlib import Path

from kata.images import erofs, layers, workspace
from kata.images.errors import ImageError, MalformedImageError, NoSpaceError
from kata.images.layout import Manifest, blob_path
from kata.images.rootfs import Content, read_content
from kata.images.workspace import Progress
from kata.linux import process
from kata.linux.process import ProcessError

TIMEOUT = 900.0
REF = "image"


def build(
    layout: Path, manifest: Manifest, volumes: tuple[str, ...], identity: str, work: Path, progress: Progress
) -> tuple[Path, Content]:
    """Unpack the only image of `layout` and make an erofs file in `work`; also what the host must know of it.

    Raises MalformedImageError (no layers, hostile layers), NoSpaceError, ImageError.
    """
    if os.geteuid() != 0:
        raise ImageError("unpacking an image needs root", hint="run this as root, or with sudo")
    if not manifest.layers:
        # Never an empty root: from a missing one, guests have been given the host's (CVE-2026-24054).
        raise MalformedImageError("the image has no layers, so there is nothing to run in it")
    progress("looking through the layers")
    blobs = [(blob_path(layout, layer.digest), layer.media_type) for layer in manifest.layers]
    footprint = layers.measure(blobs, workspace.free_bytes(work))
    workspace.require_space(work, 2 * footprint.size, footprint.entries, "unpack the image")
    progress(f"unpacking {footprint.entries} files, {footprint.size >> 20} MiB")
    tree = _unpack(layout, work, footprint.size)
    content = read_content(tree, volumes)
    progress("making the root filesystem")
    target = work / "rootfs.erofs"
    erofs.build(tree, target, identity)
    return target, content


def _unpack(layout: Path, work: Path, limit: int) -> Path:
    """umoci's work, in a directory of its own below `work`; no file may grow beyond `limit` bytes."""
    tree = work / "unpacked" / "rootfs"
    tree.parent.mkdir(mode=0o700)
    argv = ["umoci", "raw", "unpack", "--image", f"{layout}:{REF}", "--", str(tree)]
    try:
        process.run(workspace.bounded(argv, max(limit, 1 << 20)), timeout=TIMEOUT)
    except ProcessError as error:
        # umoci does not always say why it failed. There was space for twice the image: who took it?
        raise _explain(error, full=workspace.free_bytes(work) < limit) from None
    return tree


def _explain(error: ProcessError, *, full: bool) -> ImageError:
    if error.returncode is None:
        return ImageError(error.what, hint=error.hint, detail=error.detail)
    if error.returncode == 127 or "failed to execute umoci" in error.detail:
        return ImageError("the program umoci is not installed", hint="apt-get install umoci")
    line = error.detail.strip().rpartition("\n")[2].lstrip().removeprefix("\u2a2f").strip()
    if full or "no space left on device" in error.detail.lower():
        return NoSpaceError("the file system is full", detail=line)
    return MalformedImageError("the image cannot be unpacked", hint="is it complete? import it again", detail=line)

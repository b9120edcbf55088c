"""A directory with a root filesystem (from mmdebstrap, debootstrap, `docker export | tar x`) used as an image.

It is trusted no more than an image, and it may still be in use: so nothing mounted below it is read, and neither
this host's root nor the store is ever packed. Called by the store.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

import msgspec

from kata.images import erofs, layout, workspace
from kata.images.config import DEFAULT_PATH, GO_ARCHITECTURES, ImageConfig
from kata.images.errors import ImageError, ImageNotFoundError, NoSpaceError
from kata.images.rootfs import Content, read_content
from kata.images.workspace import Progress
from kata.linux import process
from kata.linux.process import ProcessError

TIMEOUT = 900.0
COMMAND = ("/bin/sh",)


def configuration() -> ImageConfig:
    """What a bare tree is run with: a shell, and the usual PATH."""
    return ImageConfig(env=(DEFAULT_PATH,), cmd=COMMAND, architecture=architecture(), os="linux")


def architecture() -> str:
    """This machine's architecture in the words of images."""
    machine = os.uname().machine
    return GO_ARCHITECTURES.get(machine, machine)


def require_usable(tree: Path, store: Path) -> None:
    """Raise ImageError unless `tree` is a directory that may become a root filesystem."""
    try:
        info = tree.stat()
        empty = not any(tree.iterdir())
    except OSError as error:
        raise ImageNotFoundError(f"{tree} cannot be read: {error.strerror}") from None
    if empty:
        raise ImageError(f"{tree} is empty, so there is nothing to run in it")
    if os.path.samestat(info, Path("/").stat()):
        raise ImageError(f"{tree} is this host's own root", hint="mmdebstrap makes a root filesystem to use instead")
    if store.resolve().is_relative_to(tree.resolve()):
        raise ImageError(f"{tree} contains the image store {store}", hint="give the root filesystem's own directory")
    mounted = _mounted_below(tree.resolve())
    if mounted:
        raise ImageError(f"a file system is mounted in it, at {mounted}", hint=f"umount {mounted}")


def build(tree: Path, work: Path, progress: Progress) -> tuple[Path, Content]:
    """An erofs file in `work` of what is in `tree` now, and the users' files in it. Raises ImageError."""
    size, entries = measure(tree)
    workspace.require_space(work, size, 1, f"make a root filesystem of {tree}")
    progress(f"making a root filesystem of {entries} files, {size >> 20} MiB")
    target = work / "rootfs.erofs"
    erofs.build(tree, target, str(tree))
    return target, read_content(tree)


def pack(tree: Path, work: Path, progress: Progress) -> Path:
    """A layout in `work` with one image of one layer: `tree` as it is now. Raises ImageError, NoSpaceError."""
    size, entries = measure(tree)
    workspace.require_space(work, size + entries * 2048, 4, f"import {tree}")
    progress(f"packing {entries} files, {size >> 20} MiB")
    archive = work / "layer.tar"
    _tar(tree, archive)
    return write_image(work / "layout", archive, layout.LAYER_TYPE, COMMAND)


def write_image(target: Path, layer: Path, media_type: str, command: tuple[str, ...], diff_id: str = "") -> Path:
    """A layout with one image of one layer; `diff_id` is the digest of the plain tar if `layer` is compressed."""
    layout.create(target)
    packed = layout.add_file(target, media_type, layer)
    document = {
        "architecture": architecture(),
        "config": {"Cmd": list(command), "Env": [DEFAULT_PATH]},
        "created": "1970-01-01T00:00:00Z",
        "os": "linux",
        "rootfs": {"diff_ids": [diff_id or packed.digest], "type": "layers"},
    }
    config = layout.add_blob(target, layout.CONFIG_TYPE, msgspec.json.encode(document))
    manifest = msgspec.json.encode(layout.Manifest(config, [packed]))
    layout.write_index(target, [layout.add_blob(target, layout.MANIFEST_TYPE, manifest)])
    return target


def _tar(tree: Path, archive: Path) -> None:
    argv = [
        "tar", "--create", f"--file={archive}", "--format=posix", "--pax-option=delete=atime,delete=ctime",
        "--sort=name", "--numeric-owner", "--xattrs", "--xattrs-include=*", "--one-file-system",
        f"--directory={tree}", "--", ".",
    ]  # fmt: skip
    try:
        process.run(argv, timeout=TIMEOUT)
    except ProcessError as error:
        if "No space left on device" in error.detail:
            raise NoSpaceError(f"there is no space to import {tree}", detail=error.detail) from None
        raise ImageError(f"{tree} could not be packed", detail=error.detail, hint=error.hint) from None


def measure(tree: Path) -> tuple[int, int]:
    """Bytes in whole blocks, and files. With a list of its own: a hostile tree is deeper than Python's stack."""
    size = entries = 0
    waiting = [str(tree)]
    while waiting:
        with os.scandir(waiting.pop()) as found:
            for entry in found:
                info = entry.stat(follow_symlinks=False)
                entries += 1
                size += info.st_size + 4096 if stat.S_ISREG(info.st_mode) else 4096
                if stat.S_ISDIR(info.st_mode):
                    waiting.append(entry.path)
    return size, entries


def _mounted_below(tree: Path) -> str:
    """The first mount point inside `tree` (not `tree` itself), or nothing. Format: proc_pid_mountinfo(5)."""
    prefix = f"{tree}/"
    with Path("/proc/self/mountinfo").open("rb") as mounts:
        for line in mounts:
            point = os.fsdecode(line.split(b" ")[4].decode("unicode_escape").encode("latin-1"))
            if point.startswith(prefix):
                return point
    return ""

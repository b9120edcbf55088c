"""Builds a guest image: packages in, one asset with its manifest out. The room's main door.

Called by `kata osbuilder` and `assets`. An asset is an erofs image (first disk of a VM), an initrd (the same tree
in memory) or a plain folder. The same inputs give the same bytes, whoever builds and wherever.
"""

from __future__ import annotations

import hashlib
import shutil
import stat
import uuid
from pathlib import Path

from kata.kernel import asset, cpio, packages
from kata.kernel.asset import File, Manifest, Package
from kata.kernel.packages import Progress
from kata.linux import process
from kata.osbuilder import recipe as recipes
from kata.osbuilder.errors import BuildError
from kata.osbuilder.recipe import Kind, Recipe
from kata.osbuilder.stage import settle, stage
from kata.version import __version__

NAMES: dict[Kind, str] = {
    "image": "kata-containers.img",
    "initrd": "kata-containers-initrd.img",
    "rootfs": "rootfs",
}
CLUSTER = 65536
"""Bytes that erofs compresses at once: the larger, the smaller the image and the dearer a single page."""
NAMESPACE = uuid.UUID("0f6b7b1e-6f0a-5c53-9a52-1f3c2f0f6d0b")
"""Of the file system UUIDs, which are made from what the image holds."""
MKFS_TIMEOUT = 600.0


def build_image(recipe: Recipe, output: Path, progress: Progress) -> Manifest:
    """Build what `recipe` describes into the folder `output` and return its manifest.

    The old asset stays until the new one is whole. Raises BuildError, KernelError (packages, assets) or
    ProcessError (a missing tool, with the package that has it).
    """
    with asset.locked(output), asset.workspace(output, "osbuilder") as folder:
        inputs = recipes.input_hash(recipe)  # first: what changes while we build makes the image stale
        progress("resolving packages")
        downloaded = packages.download_closure(recipe.seed(), packages.cache_dir("userland"), progress)
        progress("collecting the files of the guest")
        (folder / "userland").mkdir()
        (folder / "root").mkdir()
        stage(recipe, downloaded, folder / "userland", folder / "root")
        shutil.rmtree(folder / "userland")
        settle(folder / "root")
        progress(f"writing the {recipe.kind}")
        return _publish(recipe, inputs, [package for package, _ in downloaded], folder, output)


def _publish(recipe: Recipe, inputs: str, used: list[Package], folder: Path, output: Path) -> Manifest:
    root, name = folder / "root", NAMES[recipe.kind]
    files = tuple(list_files(root))
    built = folder / name
    if recipe.kind == "rootfs":
        digest, size = digest_of(root), sum(file.size for file in files)
        root.rename(built)
    else:
        (write_image if recipe.kind == "image" else write_initrd)(root, built)
        digest, size = asset.hash_file(built), built.stat().st_size
    manifest = Manifest(
        name=name,
        sha256=digest,
        size=size,
        inputs=inputs,
        packages=tuple(used),
        files=files,
        agent_version=__version__,
        recipe=recipes.encode(recipe),
    )
    if recipe.kind == "rootfs":
        _replace_folder(built, output / name, folder)
        asset.write_manifest(folder, output / name, manifest)
    else:
        asset.publish(built, output / name, manifest)
    return manifest


def _replace_folder(built: Path, place: Path, folder: Path) -> None:
    """Put a folder in the place of another: two renames, the old one is removed with the workspace."""
    try:
        if place.exists():
            place.rename(folder / "old")
        built.rename(place)
    except OSError as error:
        raise asset.explain(error, place) from error


def list_files(root: Path) -> list[File]:
    """All regular files below `root`, sorted by path."""
    return [
        File("/" + path.relative_to(root).as_posix(), path.stat().st_size, asset.hash_file(path))
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.is_symlink()
    ]


def digest_of(root: Path) -> str:
    """A hash of a tree: every path with its mode, and its content or target."""
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        mode = path.lstat().st_mode
        content = ""
        if stat.S_ISLNK(mode):
            content = str(path.readlink())
        elif stat.S_ISREG(mode):
            content = asset.hash_file(path)
        digest.update(f"{path.relative_to(root)} {mode:o} {content}\n".encode())
    return digest.hexdigest()


def write_image(root: Path, place: Path) -> None:
    """Write the tree `root` as an erofs image: compressed, owned by root, dated 0, its UUID made from its content."""
    identity = uuid.uuid5(NAMESPACE, digest_of(root))
    options = ("--quiet", "-zlz4hc,12", f"-C{CLUSTER}", "-Eztailpacking", "-x-1", "-T0", f"-U{identity}", "--all-root")
    process.run(("mkfs.erofs", *options, str(place), str(root)), timeout=MKFS_TIMEOUT)


def write_initrd(root: Path, place: Path) -> None:
    """Write the tree `root` as an initramfs. Its first program is /init."""
    nodes = {}
    for path in sorted(root.rglob("*")):
        mode = path.lstat().st_mode
        name = path.relative_to(root).as_posix()
        if stat.S_ISLNK(mode):
            nodes[name] = cpio.symlink(str(path.readlink()))
        elif stat.S_ISDIR(mode):
            nodes[name] = cpio.directory(stat.S_IMODE(mode))
        elif stat.S_ISREG(mode):
            nodes[name] = cpio.file(path.read_bytes(), stat.S_IMODE(mode))
        else:
            raise BuildError(f"{name} is neither file, folder nor link")
    nodes["dev/console"] = cpio.character_device(5, 1)
    place.write_bytes(cpio.compress(cpio.archive(nodes)))

"""Makes sure that a VM has something to boot from, and says where it is.

Called before every sandbox start, so the usual answer ("all is there") costs a few milliseconds: manifests and
hashes of our own sources, no apt, no other program. An image is stale when the agent's sources or its recipe
changed since it was built, an initrd when our lists of modules or its first program did. Newer Debian packages
do not make them stale: whoever wants them builds or fetches.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from kata import paths
from kata.kernel.asset import read_manifest
from kata.kernel.errors import AssetError
from kata.osbuilder.recipe import Recipe, decode, input_hash

if TYPE_CHECKING:
    from kata.kernel.packages import Progress

KERNEL = "vmlinuz"
INITRD = "initrd.img"
IMAGE = "kata-containers.img"


class Assets(msgspec.Struct, frozen=True):
    """What a VM boots from. `initrd` is None for a kernel with its drivers inside."""

    kernel: str
    initrd: str | None
    image: str


def ensure_assets(progress: Progress) -> Assets:
    """The guest assets, fetched or built now as far as they are missing or stale.

    A stale image that cannot be replaced (its folder is not ours to write) is an error; a whole kernel that is
    there is never replaced unasked. Raises KernelError, BuildError or ProcessError.
    """
    folder = paths.assets_dir()
    if not has_kernel(folder):
        from kata.kernel import fetch

        fetch(folder, progress)
    elif not has_fresh_initrd(folder):
        from kata.kernel import renew

        renew(folder, progress)
    if not has_image(folder):
        from kata.osbuilder.image import build_image

        build_image(recipe_of(folder) or Recipe(), folder, progress)
    return present(folder)


def present(folder: Path) -> Assets:
    """The assets in `folder`. Raises AssetError when kernel or image are missing."""
    for name in (KERNEL, IMAGE):
        if not (folder / name).is_file():
            raise AssetError(f"{folder / name} is missing", hint="run `kata setup`")
    initrd = folder / INITRD
    needed = initrd.is_file() and not is_self_contained(folder)
    return Assets(str(folder / KERNEL), str(initrd) if needed else None, str(folder / IMAGE))


def is_self_contained(folder: Path) -> bool:
    """Whether the kernel in `folder` is one of our own builds, with its drivers inside."""
    kernel = read_manifest(folder / KERNEL)
    return kernel is not None and bool(kernel.options)


def has_kernel(folder: Path) -> bool:
    """Whether `folder` holds a whole kernel: one of our own, or Debian's with an initrd of the same build."""
    kernel, initrd = read_manifest(folder / KERNEL), read_manifest(folder / INITRD)
    if kernel is None or kernel.options:
        return kernel is not None
    return initrd is not None and initrd.inputs == kernel.inputs


def has_fresh_initrd(folder: Path) -> bool:
    """Whether the initrd of Debian's kernel is as it would be made today; our own kernels have none."""
    if is_self_contained(folder):
        return True
    from kata.kernel.initrd import input_hash as initrd_inputs

    manifest = read_manifest(folder / INITRD)
    return manifest is not None and manifest.inputs == initrd_inputs(manifest.packages)


def has_image(folder: Path) -> bool:
    """Whether `folder` holds an image of the agent as it is now, by whatever recipe."""
    image, recipe = read_manifest(folder / IMAGE), recipe_of(folder)
    return image is not None and recipe is not None and image.inputs == input_hash(recipe)


def recipe_of(folder: Path) -> Recipe | None:
    """The recipe that the image in `folder` was built by: a stale one is built by the same again."""
    image = read_manifest(folder / IMAGE)
    if image is None:
        return None
    try:
        return decode(image.recipe)
    except ValueError:
        return None

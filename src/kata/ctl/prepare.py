"""What must be there before a first container can run: guest assets, and the busybox image for trying things."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kata.sandbox.config import GuestAssets
from kata.sandbox.errors import ConfigError

if TYPE_CHECKING:
    from kata.ctl.output import Progress

BUSYBOX = "busybox"


def guest_assets(progress: Progress) -> GuestAssets:
    """Guest kernel and image, built now if they are missing or stale."""
    from kata.osbuilder import ensure_assets

    assets = ensure_assets(progress)
    return GuestAssets(assets.kernel, assets.initrd, assets.image)


def check_machine(machine_type: str, assets: GuestAssets) -> None:
    """Raise ConfigError for a machine that the guest kernel at hand cannot drive.

    A microvm tells its kernel of its devices on the command line (without ACPI, which has no timer under TCG), and
    Debian's kernel does not listen there (VIRTIO_MMIO_CMDLINE_DEVICES).
    """
    from kata.kernel.asset import read_manifest

    manifest = read_manifest(Path(assets.kernel))
    if machine_type == "microvm" and not (manifest and manifest.options):
        raise ConfigError("--machine microvm needs a guest kernel of our own build", hint="kata kernel build")


def prepare(progress: Progress) -> GuestAssets:
    """Guest assets and the busybox image."""
    from kata.images.errors import ImageNotFoundError
    from kata.images.store import ImageStore, import_busybox

    assets = guest_assets(progress)
    store = ImageStore()
    try:
        image = store.get(BUSYBOX)
    except ImageNotFoundError:
        image = import_busybox(store, progress)
    store.rootfs(image, progress).close()
    return assets

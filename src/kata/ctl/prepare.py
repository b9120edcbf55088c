"""What must be there before a first container can run: guest assets, and the busybox image for trying things."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from kata.sandbox.config import GuestAssets
from kata.sandbox.errors import ConfigError, ConflictError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kata.ctl.output import Progress
    from kata.hypervisor.machine import PublishedPort

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


def check_ports(ports: Sequence[PublishedPort]) -> None:
    """Raise ConflictError for a port of the host that cannot be published now; QEMU would say it less clearly."""
    import socket

    kinds = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
    with contextlib.ExitStack() as held:
        for port in ports:
            probe = held.enter_context(socket.socket(socket.AF_INET, kinds[port.protocol]))
            if port.protocol == "tcp":  # as QEMU does: a port whose last connections are closing is free
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((port.host_address, port.host_port))
                if port.protocol == "tcp":  # two that only bind would share it
                    probe.listen(1)
            except OSError as error:
                raise _port_error(port, error) from None


def _port_error(port: PublishedPort, error: OSError) -> ConflictError:
    import errno

    what = f"port {port.host_port}/{port.protocol} of {port.host_address} cannot be published"
    if error.errno == errno.EADDRINUSE:
        return ConflictError(f"{what}: it is taken", hint="ss -lnptu shows who has it; -p OTHER:GUEST takes another")
    return ConflictError(f"{what}: {error.strerror}", hint="-p HOST:GUEST publishes on 127.0.0.1")


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

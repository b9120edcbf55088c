"""Kernel modules: which of them a guest gets, what they need, and when they are loaded.

Used by `initrd` alone. A module that the kernel has built in is left out; one that this kernel does not know
(9p in Debian's cloud kernel) is left out too, and the manifest shows it by its absence.
"""

from __future__ import annotations

import lzma
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

AT_BOOT = ("virtio_blk", "crc32c_generic", "erofs", "overlay")
"""What every guest uses: the disk it boots from, its file system, and that of containers on block devices.

libcrc32c (for erofs and ext4) finds crc32c by asking the crypto API, which modinfo does not show as a need.
"""

ON_DEMAND = (
    "virtio_net",
    "virtio_mmio",
    "virtio-rng",
    "virtio_balloon",
    "virtio_mem",
    "virtio_pmem",
    "virtio_scsi",
    "nd_pmem",
    "nfit",
    "vfio-pci",
    "vfio_iommu_type1",
    "vmw_vsock_virtio_transport",
    "9p",
    "9pnet_virtio",
    "virtiofs",
    "virtio_console",
    "ext4",
    "sd_mod",
)
"""What only some guests use. The initrd loads those whose device is there at boot; the agent loads the rest."""

DRIVERS: Mapping[int, tuple[str, ...]] = {
    1: ("virtio_net",),
    4: ("virtio-rng",),
    5: ("virtio_balloon",),
    8: ("virtio_scsi",),
    9: ("9pnet_virtio", "9p"),
    19: ("vmw_vsock_virtio_transport",),
    24: ("virtio_mem",),
    27: ("virtio_pmem",),
}
"""The driver of each virtio device type (VIRTIO 1.2, section 5) that is not part of `AT_BOOT`.

With 9p's comes its file system: a guest that has the device will mount it, and what is loaded before a template is
saved need not be loaded by each sandbox, a twelfth of a second under TCG.
"""

DECOMPRESSORS: Mapping[str, Callable[[bytes], bytes]] = {
    ".ko": bytes,
    ".ko.xz": lzma.decompress,
    ".ko.gz": lambda data: zlib.decompress(data, wbits=31),
}


class Modules(NamedTuple):
    """What goes into the initrd: `code` by module name, and the order in which to load each set.

    `needs` gives for each name of `ON_DEMAND` that exists all modules to load, dependencies first.
    """

    code: dict[str, bytes]
    at_boot: tuple[str, ...]
    needs: dict[str, tuple[str, ...]]
    built_in: tuple[str, ...]


def canonical(name: str) -> str:
    """Module names know no difference between - and _ ."""
    return name.replace("-", "_")


def name_of(path: str) -> str | None:
    """The name of the module in a file `path`, or None when it is no module."""
    base = path.rpartition("/")[2]
    stem, dot, suffix = base.partition(".ko")
    return stem if dot and f".ko{suffix}" in DECOMPRESSORS else None


def decompress(path: str, data: bytes) -> bytes:
    """The ELF object in a module file."""
    return DECOMPRESSORS[path[path.rindex(".ko") :]](data)


def information(code: bytes) -> dict[str, str]:
    """The `.modinfo` section of a module, by key (repeated keys: the last)."""
    section = _section(code, b".modinfo")
    entries = (entry.decode("utf-8", "replace").partition("=") for entry in section.split(b"\0") if entry)
    return {key: value for key, _, value in entries}


def needed_by(code: bytes) -> list[str]:
    """The canonical names of the modules that a module depends on."""
    return [canonical(name) for name in information(code).get("depends", "").split(",") if name]


def _section(code: bytes, wanted: bytes) -> bytes:
    """One section of an ELF64 little-endian object (System V ABI, chapter 4), empty when it has none."""
    offset, size, count, names = (
        *struct.unpack_from("<Q", code, 0x28),
        *struct.unpack_from("<HHH", code, 0x3A),
    )
    headers = [struct.unpack_from("<IIQQQQ", code, offset + size * index) for index in range(count)]
    strings = headers[names][4]
    for name, _, _, _, start, length in headers:
        end = code.index(b"\0", strings + name)
        if code[strings + name : end] == wanted:
            return code[start : start + length]
    return b""


def select(available: Mapping[str, bytes], built_in: Iterable[str]) -> Modules:
    """The modules of `AT_BOOT` and `ON_DEMAND` with all they need, from `available` (code by name)."""
    code = {canonical(name): data for name, data in available.items()}
    spelling = {canonical(name): name for name in available}
    inside = {canonical(name) for name in built_in}

    def closure(name: str, chain: tuple[str, ...] = ()) -> tuple[str, ...]:
        if name not in code or name in chain:
            return ()
        order = [found for entry in needed_by(code[name]) for found in closure(entry, (*chain, name))]
        return tuple(dict.fromkeys((*order, spelling[name])))

    at_boot = tuple(dict.fromkeys(name for entry in AT_BOOT for name in closure(canonical(entry))))
    needs = {entry: closure(canonical(entry)) for entry in ON_DEMAND}
    needs = {entry: tuple(n for n in order if n not in at_boot) for entry, order in needs.items() if order}
    chosen = sorted({*at_boot, *(name for order in needs.values() for name in order)})
    return Modules(
        {name: code[canonical(name)] for name in chosen},
        at_boot,
        needs,
        tuple(sorted(name for name in (*AT_BOOT, *ON_DEMAND) if canonical(name) in inside)),
    )

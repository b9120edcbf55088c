"""An image for persistent memory that can be used with DAX: what `ndctl create-namespace --mode=fsdax` would write.

Linux gives pages to a namespace, and so DAX, only when it finds this block 4 KiB from its start (drivers/nvdimm/pfn.h,
struct nd_pfn_sb, version 1.4). The disk that the guest sees begins after it.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

DATA_OFFSET = 2 << 20
PLACE, SIZE = 4096, 4096
PAGE, PAGE_STRUCT = 4096, 64
PAGES_IN_RAM = 1
_BLOCK = struct.Struct("<16s 16s 16s I HH Q Q I I I I I H")


def write_info(image: Path) -> None:
    """Write the block into an image, whose file system is to begin at DATA_OFFSET."""
    pages = (image.stat().st_size - DATA_OFFSET) // PAGE
    signature, identity, parent = b"NVDIMM_PFN_INFO", os.urandom(16), bytes(16)
    version, padding, flags = (1, 4), (0, 0), 0
    fields = _BLOCK.pack(
        signature, identity, parent, flags, *version, DATA_OFFSET, pages, PAGES_IN_RAM, *padding, DATA_OFFSET, PAGE,
        PAGE_STRUCT,
    )  # fmt: skip
    block = fields.ljust(SIZE - 8, b"\0")
    with image.open("r+b") as stream:
        stream.seek(PLACE)
        stream.write(block + struct.pack("<Q", fletcher64(block + bytes(8))))


def fletcher64(data: bytes) -> int:
    """The checksum of the kernel's nd_fletcher64: over words of 32 bits, the lower sum wrapping at 32 too."""
    low = high = 0
    for (word,) in struct.iter_unpack("<I", data):
        low = (low + word) & 0xFFFFFFFF
        high += low
    return (high << 32 | low) & 0xFFFFFFFFFFFFFFFF

"""Reads which shared libraries an ELF file needs, and takes one of these needs away.

Called by `closure` and `stage`. ELF64 little-endian only (System V ABI, chapters 4 and 5). Libraries are found
in the guest's tree, never on the host, so that nothing of the host gets into an image.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

MAGIC = b"\x7fELF\x02\x01"
PT_LOAD, PT_DYNAMIC, PT_INTERP = 1, 2, 3
DT_NULL, DT_NEEDED, DT_STRTAB, DT_RPATH, DT_RUNPATH = 0, 1, 5, 15, 29
ENTRY = struct.Struct("<qQ")


class Segment(NamedTuple):
    """A program header, as far as it is used here."""

    kind: int
    offset: int
    address: int
    size: int


class Needs(NamedTuple):
    """`interpreter` is an absolute path or empty, `libraries` are sonames, `folders` may begin with $ORIGIN."""

    interpreter: str
    libraries: tuple[str, ...]
    folders: tuple[str, ...]


def is_elf(data: bytes) -> bool:
    """Whether `data` begins like a 64-bit little-endian ELF file."""
    return data.startswith(MAGIC)


def read_needs(data: bytes) -> Needs:
    """What the loader has to find for this file; all empty for a static program."""
    segments = _segments(data)
    interpreter = ""
    for segment in segments:
        if segment.kind == PT_INTERP:
            interpreter = data[segment.offset : segment.offset + segment.size].rstrip(b"\0").decode()
    entries = _dynamic(data, segments)
    strings = _strings(entries, segments)
    texts = [(tag, _text(data, strings + value)) for tag, value in entries if tag in (DT_NEEDED, DT_RPATH, DT_RUNPATH)]
    return Needs(
        interpreter,
        tuple(text for tag, text in texts if tag == DT_NEEDED),
        tuple(folder for tag, text in texts if tag != DT_NEEDED for folder in text.split(":")),
    )


def drop_need(data: bytes, soname: str) -> bytes:
    """The same file without its need for `soname`. Entries after it move up by one; the table stays in place."""
    segments = _segments(data)
    entries = _dynamic(data, segments)
    strings = _strings(entries, segments)
    kept = [entry for entry in entries if entry[0] != DT_NEEDED or _text(data, strings + entry[1]) != soname]
    kept += [(DT_NULL, 0)] * (len(entries) - len(kept))
    (table,) = (segment for segment in segments if segment.kind == PT_DYNAMIC)
    packed = b"".join(ENTRY.pack(*entry) for entry in kept)
    return data[: table.offset] + packed + data[table.offset + len(packed) :]


def _segments(data: bytes) -> list[Segment]:
    (offset,) = struct.unpack_from("<Q", data, 0x20)
    size, count = struct.unpack_from("<HH", data, 0x36)
    found = []
    for index in range(count):
        kind, _, place, address, _, length = struct.unpack_from("<IIQQQQ", data, offset + size * index)
        found.append(Segment(kind, place, address, length))
    return found


def _dynamic(data: bytes, segments: list[Segment]) -> list[tuple[int, int]]:
    """The dynamic table up to, not including, its end mark."""
    for segment in segments:
        if segment.kind == PT_DYNAMIC:
            table = data[segment.offset : segment.offset + segment.size // ENTRY.size * ENTRY.size]
            entries = list(ENTRY.iter_unpack(table))
            end = next((i for i, (tag, _) in enumerate(entries) if tag == DT_NULL), len(entries))
            return [(int(tag), int(value)) for tag, value in entries[:end]]
    return []


def _strings(entries: list[tuple[int, int]], segments: list[Segment]) -> int:
    """The file offset of the dynamic string table, 0 when there is none."""
    address = dict(entries).get(DT_STRTAB, 0)
    for segment in segments:
        if segment.kind == PT_LOAD and segment.address <= address < segment.address + segment.size:
            return address - segment.address + segment.offset
    return 0


def _text(data: bytes, offset: int) -> str:
    return data[offset : data.index(b"\0", offset)].decode()

"""Reads which shared libraries an ELF file needs, and takes one of these needs away.

Called by `closure` and `stage`. ELF64 little-endian only (System V ABI, chapters 4 and 5; symbol versions as the
Linux Standard Base has them). Libraries are found in the guest's tree, never on the host, so that nothing of the
host gets into an image.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

MAGIC = b"\x7fELF\x02\x01"
PT_LOAD, PT_DYNAMIC, PT_INTERP = 1, 2, 3
DT_NULL, DT_NEEDED, DT_STRTAB, DT_RPATH, DT_RUNPATH = 0, 1, 5, 15, 29
DT_SYMTAB, DT_RELA, DT_RELASZ, DT_JMPREL, DT_PLTRELSZ = 6, 7, 8, 23, 2
DT_VERSYM, DT_VERNEED, DT_VERNEEDNUM = 0x6FFFFFF0, 0x6FFFFFFE, 0x6FFFFFFF
ENTRY = struct.Struct("<qQ")
RELOCATION = struct.Struct("<QQq")
VERSIONS = struct.Struct("<HHIII")
"""Elf64_Verneed: its version, count, file, first list entry and distance to the next."""
SYMBOL_SIZE = 24
STB_WEAK = 2
VERSION_GLOBAL = 1


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
    """The same file without its need for `soname`, for a library of which nothing is ever called.

    Entries after it move up by one; the table stays in place. Symbols with a version of that library become weak
    and lose the version: the loader makes them 0 where nothing defines them, and calling one ends the program.
    """
    segments = _segments(data)
    entries = _dynamic(data, segments)
    strings = _strings(entries, segments)
    kept = [entry for entry in entries if entry[0] != DT_NEEDED or _text(data, strings + entry[1]) != soname]
    image = bytearray(data)
    kept = _drop_versions(image, segments, kept, soname)
    kept += [(DT_NULL, 0)] * (len(entries) - len(kept))
    (table,) = (segment for segment in segments if segment.kind == PT_DYNAMIC)
    packed = b"".join(ENTRY.pack(*entry) for entry in kept)
    image[table.offset : table.offset + len(packed)] = packed
    return bytes(image)


def _drop_versions(
    image: bytearray, segments: list[Segment], entries: list[tuple[int, int]], soname: str
) -> list[tuple[int, int]]:
    """Take the versions that are wanted of `soname` out of their chain; the dynamic entries as they are then."""
    values = dict(entries)
    first = place = _offset(values.get(DT_VERNEED, 0), segments)
    strings = _offset(values.get(DT_STRTAB, 0), segments)
    before = 0
    for _ in range(values.get(DT_VERNEEDNUM, 0)):
        _, count, file, auxiliary, following = VERSIONS.unpack_from(image, place)
        if _text(bytes(image), strings + file) != soname:
            before, place = place, place + following
            continue
        _weaken(image, segments, entries, _version_numbers(image, place + auxiliary, count))
        if before:
            distance = place - before + following if following else 0
            struct.pack_into("<I", image, before + VERSIONS.size - 4, distance)
        start = values[DT_VERNEED] + (following if place == first else 0)
        changed = {DT_VERNEED: start, DT_VERNEEDNUM: values[DT_VERNEEDNUM] - 1}
        return [(tag, changed.get(tag, value)) for tag, value in entries]
    return entries


def _version_numbers(image: bytearray, place: int, count: int) -> set[int]:
    """The numbers by which symbols name the versions in a list of `count`."""
    numbers = set()
    for _ in range(count):
        _, _, number, _, following = struct.unpack_from("<IHHII", image, place)
        numbers.add(number)
        place += following
    return numbers


def _weaken(image: bytearray, segments: list[Segment], entries: list[tuple[int, int]], numbers: set[int]) -> None:
    """Make weak and unversioned every symbol that a relocation names and whose version is one of `numbers`."""
    values = dict(entries)
    symbols, versions = (_offset(values.get(tag, 0), segments) for tag in (DT_SYMTAB, DT_VERSYM))
    for table, length in ((DT_RELA, DT_RELASZ), (DT_JMPREL, DT_PLTRELSZ)):
        start = _offset(values.get(table, 0), segments)
        for place in range(start, start + values.get(length, 0), RELOCATION.size):
            symbol = RELOCATION.unpack_from(image, place)[1] >> 32
            (number,) = struct.unpack_from("<H", image, versions + 2 * symbol)
            if number in numbers:
                struct.pack_into("<H", image, versions + 2 * symbol, VERSION_GLOBAL)
                info = symbols + SYMBOL_SIZE * symbol + 4
                image[info] = STB_WEAK << 4 | image[info] & 0xF


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
    return _offset(dict(entries).get(DT_STRTAB, 0), segments)


def _offset(address: int, segments: list[Segment]) -> int:
    """Where in the file an address of the loaded program is, 0 when it is in none of its segments."""
    for segment in segments:
        if segment.kind == PT_LOAD and segment.address <= address < segment.address + segment.size:
            return address - segment.address + segment.offset
    return 0


def _text(data: bytes, offset: int) -> str:
    return data[offset : data.index(b"\0", offset)].decode()

"""Headers of tar archives, and Python's tarfile as the second opinion on what both accept."""

from __future__ import annotations

import io
import re
import tarfile

from kata.images.tarheaders import BadArchiveError, Bounded, Header, TarReader

MOST = 1000
"""Headers that are looked at."""
MAGIC, STAR = (b"ustar\x0000", b"ustar  \0"), b"tar\0"
PLAIN_SIZE = re.compile(rb"[0-7]+[ \0]*")


def _archive(format_: int, *names: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=format_) as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 3
            archive.addfile(member, io.BytesIO(b"abc"))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "b" * 90
        archive.addfile(link)
    return stream.getvalue()[: 512 * 20]


SEEDS = (
    _archive(tarfile.USTAR_FORMAT, "a/b", "c" * 90 + "/" + "d" * 90),
    _archive(tarfile.GNU_FORMAT, "a", "e" * 200),
    _archive(tarfile.PAX_FORMAT, "ä/" + "f" * 200),
)
TOKENS = (
    b"ustar\x0000",
    b"ustar  \0",
    b"x",
    b"g",
    b"L",
    b"K",
    b"S",
    b"0000003\0",
    b"\x80\0\0\0",
    b"\xff\xff\xff\xff",
    b"27 path=",
    b"11 size=9\n",
)


def target(data: bytes) -> None:
    """The checksums are made right first, or hardly any input would come further than the first one."""
    fixed = _with_sums(data[: 512 * 64])
    for seekable in (True, False):
        for archive in (data, fixed):
            _read(archive, seekable=seekable)
    ours, theirs = _read(fixed), _second_opinion(fixed)
    if ours is not None and theirs is not None:
        for one, other in zip(ours, theirs, strict=False):
            assert one.name.rstrip("/") == other[0].rstrip("/")
            assert other[1] in (-1, one.size)


def _with_sums(data: bytes) -> bytes:
    blocks = bytearray(data)
    for begin in range(0, len(blocks) - 511, 512):
        block = blocks[begin : begin + 512]
        if block[257:262] == b"ustar":
            block[148:156] = b" " * 8
            blocks[begin + 148 : begin + 156] = b"%06o\0 " % sum(block)
    return bytes(blocks)


def _read(data: bytes, *, seekable: bool = False) -> list[Header] | None:
    """The files; None for what is refused."""
    stream = io.BytesIO(data)
    reader = TarReader(stream if seekable else Bounded(stream), seekable=seekable)
    found: list[Header] = []
    try:
        while len(found) < MOST and (header := reader.next()) is not None:
            assert header.size >= 0
            found.append(header)
            if len(found) % 2:
                assert len(reader.content(1 << 16)) == header.size
    except BadArchiveError:
        return None
    return found


def _second_opinion(data: bytes) -> list[tuple[str, int]] | None:
    """Names and sizes, -1 for what is no file, up to one that Go, which reads next, and Python read differently."""
    found = []
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:", errors="surrogateescape") as archive:
            for member in archive.getmembers()[:MOST]:
                header = data[member.offset_data - 512 : member.offset_data]
                if (
                    not PLAIN_SIZE.fullmatch(header[124:136])
                    or header[257:265] not in MAGIC
                    or header[508:] == STAR
                    or (header[257:265] == MAGIC[1] and any(header[345:500]))  # Python takes GNU's own for a prefix
                    or not member.name
                ):
                    break
                found.append((member.name, member.size if member.isreg() else -1))
    except (tarfile.TarError, ValueError, OverflowError, EOFError):
        return None
    return found

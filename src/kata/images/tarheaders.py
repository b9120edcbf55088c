"""The headers of a tar archive, one after the other, with a bound on everything: memory, numbers, what is unpacked.

For looking at archives that strangers wrote, before umoci or skopeo reads them. Python's tarfile believes what a header
claims: it reads an extended header of gigabytes into memory, and a sparse file's map of a billion entries (a layer of
800 KB; umoci's Go has the same fault, CVE-2025-58183). Facts: pax(1), tar(5), and how Go's archive/tar takes what they
leave open, since that is what reads next. Called by `layers`, `source`, `label` and `skopeo`. Never extract here.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol, cast

BLOCK = 512
CHUNK = 1 << 20
MAX_EXTENDED = 1 << 20
"""Bytes of one extended header, the limit of Go's archive/tar, so umoci's."""
MAX_NUMBER = 1 << 60
RATIO, FREE = 1100, 1 << 30
"""A compressed archive may unpack to that many times its size (gzip comes to 1032 at most), or to 1 GiB."""

REGULAR, DIRECTORY = (b"0", b"\0", b"7"), b"5"
_WITHOUT_DATA = (b"1", b"2", b"3", b"4", b"5", b"6")
_PAX, _GLOBAL, _LONG_NAME, _LONG_LINK, _SPARSE = b"x", b"g", b"L", b"K", b"S"
_EXTENDED = (_PAX, _GLOBAL, _LONG_NAME, _LONG_LINK, b"X")

_DAMAGED = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)


class BadArchiveError(Exception):
    """It is no archive, damaged, or beyond what is accepted. For callers, who know what to call it."""


class Stream(Protocol):
    """What is read from."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes, none at the end."""


class Header(NamedTuple):
    """One file of an archive. `size` is that of its data; `kind` is tar's type."""

    name: str
    kind: bytes
    size: int

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return self.kind in REGULAR and not self.is_directory

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory; archives of old say so by a slash."""
        return self.kind == DIRECTORY or (self.kind == b"\0" and self.name.endswith("/"))


class Bounded:
    """A compressed stream, whose damage is BadArchiveError, and so is what it has beyond `limit` bytes."""

    def __init__(self, stream: Stream, limit: int = MAX_NUMBER) -> None:
        self._stream = stream
        self._left = limit

    def read(self, size: int, /) -> bytes:
        """See `Stream`."""
        try:
            data = self._stream.read(size)
        except _DAMAGED as error:
            raise BadArchiveError(f"it is damaged: {error}") from error
        except OSError as error:
            if error.errno is None:  # bz2 has no error of its own
                raise BadArchiveError(f"it is damaged: {error}") from error
            raise
        self._left -= len(data)
        if self._left < 0:
            raise BadArchiveError("it unpacks to far more than any image does")
        return data


class TarReader:
    """Reads the headers of one archive in order. A file's data is skipped unless `content` takes it.

    Everything raises BadArchiveError for what is no archive, and what the stream raises.
    """

    def __init__(self, stream: Stream, *, seekable: bool = False) -> None:
        self._stream = stream
        self._seekable = seekable
        self._size = self._skip = 0
        self.headers = 0
        """How many headers there were, with those that only say more of the next."""

    def next(self) -> Header | None:
        """The next file, None at the end."""
        extended: dict[str, str] = {}
        long_name = ""
        while True:
            self._pass_over()
            block = self._read(BLOCK, at_end=True)
            if not block and not self.headers:
                raise BadArchiveError("it is empty")
            if not block or block == bytes(BLOCK):
                return None
            self.headers += 1
            _check_sum(block)
            kind, size = block[156:157], _number(block[124:136])
            if kind == _PAX:
                extended = _pax_records(self._extended(size))
            elif kind == _LONG_NAME:
                long_name = _text(self._extended(size).split(b"\0")[0])
            elif kind in _EXTENDED:
                self._extended(size)
            else:
                return self._file(block, kind, size, long_name, extended)

    def content(self, limit: int) -> bytes:
        """The data of the file that `next` gave last. Raises BadArchiveError beyond `limit` bytes."""
        padded, self._skip = self._skip, 0
        if self._size > limit:
            raise BadArchiveError(f"a document in it is larger than {limit >> 20} MiB")
        return self._read(padded)[: self._size]

    def _file(self, block: bytes, kind: bytes, size: int, long_name: str, extended: dict[str, str]) -> Header:
        if kind == _SPARSE or any(key.startswith("GNU.sparse") for key in extended):
            # OCI image-spec 1.1, layer.md: sparse files are not to be used.
            raise BadArchiveError("it has a sparse file, which no image may have")
        if "size" in extended:
            size = _decimal(extended["size"])
        header = Header(long_name or extended.get("path") or _name(block), kind, size)
        has_no_data = kind in _WITHOUT_DATA or header.is_directory
        self._size = 0 if has_no_data else size
        self._skip = _padded(self._size)
        return header._replace(size=self._size)

    def _extended(self, size: int) -> bytes:
        if size > MAX_EXTENDED:
            raise BadArchiveError(f"it has an extended header larger than {MAX_EXTENDED >> 20} MiB")
        return self._read(_padded(size))[:size]

    def _pass_over(self) -> None:
        if self._skip and self._seekable:
            file = cast(BinaryIO, self._stream)
            file.seek(self._skip, 1)
            self._skip = 0
        while self._skip:
            part = self._stream.read(min(CHUNK, self._skip))
            if not part:
                raise BadArchiveError("it is cut off")
            self._skip -= len(part)

    def _read(self, size: int, *, at_end: bool = False) -> bytes:
        parts, missing = [], size
        while missing and (part := self._stream.read(min(CHUNK, missing))):
            parts.append(part)
            missing -= len(part)
        data = b"".join(parts)
        if missing and not (at_end and not data):
            raise BadArchiveError("it is cut off")
        return data


@contextmanager
def open_archive(path: Path) -> Iterator[TarReader]:
    """The headers of a file, which may be compressed by gzip, bzip2 or xz. Raises OSError when it cannot be opened."""
    with path.open("rb") as file:
        packed = open_compressed(path)
        if packed is None:
            yield TarReader(file, seekable=True)
            return
        with packed:
            yield TarReader(Bounded(packed, most_unpacked(path)))


def open_compressed(path: Path) -> gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile | None:
    """A reader of what is compressed in `path`, by its first bytes; None when nothing is. Raises OSError."""
    with path.open("rb") as file:
        magic = file.read(6)
    if magic.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(path)
    if magic.startswith(b"BZh"):
        return bz2.BZ2File(path)
    return lzma.LZMAFile(path) if magic == b"\xfd7zXZ\0" else None


def most_unpacked(path: Path) -> int:
    """How many bytes a compressed file may unpack to."""
    return max(FREE, RATIO * path.stat().st_size)


def _check_sum(block: bytes) -> None:
    """The sum of all bytes, its own field taken as blanks; some programs of old added signed ones."""
    said = _number(block[148:156])
    rest = block[:148] + b" " * 8 + block[156:]
    if said != sum(rest) and said != sum(struct.unpack("512b", rest)):
        raise BadArchiveError("it is no tar archive, or damaged")


def _number(field: bytes) -> int:
    """Octal digits, or the bytes of a number when the first has its highest bit set (GNU)."""
    if field[0] & 0x80:
        value = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
        negative = field[0] & 0x40
    else:
        digits = field.strip(b" \0")
        if digits and not all(digit in b"01234567" for digit in digits):
            raise BadArchiveError("a header has a number that is none")
        value, negative = int(digits or b"0", 8), 0
    if negative or value > MAX_NUMBER:
        raise BadArchiveError("a header has a number beyond all sense")
    return value


def _decimal(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and int(text) <= MAX_NUMBER):
        raise BadArchiveError("a header has a size that is none")
    return int(text)


def _name(block: bytes) -> str:
    """The name, behind its prefix where the form of POSIX has one (GNU has other things there, and star some)."""
    name = block[:100].split(b"\0")[0]
    end = 476 if block[508:512] == b"tar\0" else 500
    prefix = block[345:end].split(b"\0")[0] if block[257:263] == b"ustar\0" else b""
    return _text(prefix + b"/" + name if prefix else name)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _pax_records(data: bytes) -> dict[str, str]:
    """Records of the form `LENGTH KEY=VALUE\\n`, the last of a key holds. Anything else is refused, as Go does."""
    records: dict[str, str] = {}
    while data:
        digits, blank, _ = data[:12].partition(b" ")
        length = int(digits) if digits.isdigit() else 0
        record = data[len(digits) + 1 : length]
        key, equals, value = record.partition(b"=")
        if not (blank and equals and len(digits) + 2 < length <= len(data) and record.endswith(b"\n")):
            raise BadArchiveError("an extended header makes no sense")
        records[_text(key)] = _text(value[:-1])
        data = data[length:]
    return records


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK

"""Layers are looked through before anything is written."""

from __future__ import annotations

import gzip
import tarfile
from pathlib import Path

import pytest

from kata.images.errors import MalformedImageError, NoSpaceError
from kata.images.layers import MAX_DEPTH, Footprint, measure
from tests.unit.images.crafted import LAYER, entry, tar

MIB = 1 << 20
PLENTY = 1 << 40


def layer(place: Path, data: bytes, name: str = "layer") -> tuple[Path, str]:
    (place / name).write_bytes(data)
    return place / name, LAYER


def test_counts(tmp_path: Path) -> None:
    first = layer(tmp_path, tar(entry("d", type=tarfile.DIRTYPE), entry("d/a", b"x" * 5000)), "1")
    second = tmp_path / "2"
    second.write_bytes(gzip.compress(tar(entry("l", type=tarfile.SYMTYPE, linkname="/x"), entry("e", b"y"))))
    assert measure([first, (second, f"{LAYER}+gzip")], PLENTY) == Footprint(4096 + 8192 + 4096, 4)


def test_members_of_a_gzip_file_after_the_first_count(tmp_path: Path) -> None:
    data = tar(entry("a", b"x" * MIB))
    (tmp_path / "l").write_bytes(gzip.compress(data[:700]) + gzip.compress(data[700:]))
    assert measure([(tmp_path / "l", f"{LAYER}+gzip")], PLENTY).size == MIB


def test_a_bomb_is_met_early(tmp_path: Path) -> None:
    (tmp_path / "l").write_bytes(gzip.compress(tar(entry("a", b"\0" * 20 * MIB)), 1))
    with pytest.raises(NoSpaceError, match="more than the 10 MiB"):
        measure([(tmp_path / "l", f"{LAYER}+gzip")], 10 * MIB)


def test_a_claimed_size_counts_before_the_data(tmp_path: Path) -> None:
    member = tarfile.TarInfo("huge")
    member.size = 1 << 50
    with pytest.raises(NoSpaceError):
        measure([layer(tmp_path, member.tobuf(tarfile.GNU_FORMAT) + b"\0" * 2048)], PLENTY)


def test_a_sparse_file_is_refused(tmp_path: Path) -> None:
    headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(1 << 50)}
    data = tar(entry("GNUSparseFile.0/s", b"0\n" + b"\0" * 510, pax_headers=headers))
    with pytest.raises(MalformedImageError) as caught:
        measure([layer(tmp_path, data)], PLENTY)
    assert "sparse" in caught.value.detail


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_extended_headers_are_not_read_into_memory(tmp_path: Path, kind: bytes) -> None:
    member = tarfile.TarInfo("x")
    member.type, member.size = kind, 1 << 40
    with pytest.raises(MalformedImageError) as caught:
        measure([layer(tmp_path, member.tobuf(tarfile.GNU_FORMAT) + b"\0" * 2048)], PLENTY)
    assert "extended header" in caught.value.detail


@pytest.mark.parametrize(
    "name",
    ["../x", "a/../../x", "..", ".wh.", ".wh..", ".wh...", "a/.wh...", "../.wh.x", "/".join("d" * (MAX_DEPTH + 1))],
)
def test_names_that_do_harm(tmp_path: Path, name: str) -> None:
    with pytest.raises(MalformedImageError):
        measure([layer(tmp_path, tar(entry(name, b"")))], PLENTY)


@pytest.mark.parametrize("name", [".wh.x", "a/.wh..wh..opq", "...", "a..b", "./a", "/a", "."])
def test_names_that_do_none(tmp_path: Path, name: str) -> None:
    assert measure([layer(tmp_path, tar(entry(name, b"")))], PLENTY).entries == 1


@pytest.mark.parametrize("data", [b"", b"x" * 2000, tar(entry("a", b"x" * 9000))[:3000]])
@pytest.mark.parametrize("compressed", [True, False])
def test_broken_archives(tmp_path: Path, data: bytes, compressed: bool) -> None:
    (tmp_path / "l").write_bytes(gzip.compress(data)[:-1] if compressed else data)
    with pytest.raises(MalformedImageError):
        measure([(tmp_path / "l", f"{LAYER}+gzip" if compressed else LAYER)], PLENTY)


def test_unknown_types(tmp_path: Path) -> None:
    with pytest.raises(MalformedImageError, match="cannot be unpacked"):
        measure([(layer(tmp_path, tar())[0], "application/x-evil")], PLENTY)

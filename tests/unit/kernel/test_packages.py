"""Debian packages: names, apt's answers, reading without installing."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from kata.kernel import packages
from kata.kernel.errors import PackageError
from tests.unit.kernel.crafted import package


def test_the_file_name_of_a_version_with_an_epoch() -> None:
    assert packages.filename("libcap2", "1:2.66-4", "amd64") == "libcap2_1%3a2.66-4_amd64.deb"


def test_lines_of_a_simulation() -> None:
    text = (
        "Inst libc6 (2.36-9+deb12u14 Debian-Security:12/oldstable-security [amd64]) []\n"
        "Inst media-types (10.0.0 Debian:12.14/oldstable [all])\n"
        "Conf libc6 (2.36-9 Debian:12 [amd64])\n"
    )
    assert packages.INSTALLED.findall(text) == [
        ("libc6", "2.36-9+deb12u14", "amd64"),
        ("media-types", "10.0.0", "all"),
    ]


def test_the_content_of_a_package_is_streamed(tmp_path: Path) -> None:
    deb = package(tmp_path, "thing", {"usr/bin/x": b"content", "usr/bin/y": "x"})
    found = {}
    with packages.contents(deb) as tar:
        for member in tar:
            stream = tar.extractfile(member) if member.isreg() else None
            found[member.name] = stream.read() if stream else member.linkname
    assert found["./usr/bin/x"] == b"content"
    assert found["./usr/bin/y"] == "x"


def test_a_reader_may_stop_early(tmp_path: Path) -> None:
    deb = package(tmp_path, "thing", {"a": b"x" * 200_000, "b": b"y" * 200_000})
    with packages.contents(deb) as tar:
        assert tar.next() is not None


@pytest.mark.parametrize("keep", [0, 20, 300, 0.5, 0.9])
def test_a_damaged_package_is_told(tmp_path: Path, keep: float) -> None:
    deb = package(tmp_path, "thing", {"a": bytes(range(256)) * 500})
    data = deb.read_bytes()
    deb.write_bytes(data[: keep if isinstance(keep, int) else int(len(data) * keep)])
    with pytest.raises(PackageError, match="cannot be read"), packages.contents(deb) as tar:
        for member in tar:
            stream = tar.extractfile(member) if member.isreg() else None
            if stream:
                stream.read()


def test_other_versions_are_removed_and_others_packages_stay(tmp_path: Path) -> None:
    for name in ("a_1_amd64.deb", "a_2_amd64.deb", "b_1_amd64.deb", "a-doc_1_all.deb"):
        (tmp_path / name).touch()
    packages.prune(tmp_path, {"a_2_amd64.deb"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-doc_1_all.deb", "a_2_amd64.deb", "b_1_amd64.deb"]


def test_a_damaged_tar_does_not_leave_dpkg_deb_behind(tmp_path: Path) -> None:
    deb = package(tmp_path, "thing", {"a": b"x" * 5_000_000})
    with pytest.raises(ZeroDivisionError), packages.contents(deb) as tar:
        tar.next()
        raise ZeroDivisionError
    alive = subprocess.run(["pgrep", "-f", str(deb)], capture_output=True, timeout=30, check=False)
    assert alive.stdout == b""

"""Archives as the kernel reads them; the real cpio is the judge."""

from __future__ import annotations

import os
import random
import stat
import subprocess
from pathlib import Path

from kata.kernel import cpio

NODES = {
    "dev": cpio.directory(),
    "bin": cpio.directory(0o755),
    "bin/tool": cpio.file(b"#!/bin/sh\n", 0o755),
    "bin/link": cpio.symlink("tool"),
    "empty": cpio.file(b""),
    "odd": cpio.file(b"12345", 0o600),
}


def test_golden_bytes() -> None:
    made = cpio.archive({"a": cpio.file(b"xyz", 0o644)})
    head = b"070701" + b"00000001" + b"000081A4" + b"00000000" * 2 + b"00000001" + b"00000000" + b"00000003"
    head += b"00000000" * 4 + b"00000002" + b"00000000"
    assert made.startswith(head + b"a\0" + b"xyz\0" + b"070701")
    assert made.rstrip(b"\0").endswith(b"TRAILER!!!")
    assert len(made) % 512 == 0


def test_order_of_insertion_does_not_matter() -> None:
    names = list(NODES)
    made = set()
    for seed in range(5):
        random.Random(seed).shuffle(names)
        made.add(cpio.archive({name: NODES[name] for name in names}))
    assert len(made) == 1


def test_the_real_cpio_unpacks_it(tmp_path: Path) -> None:
    subprocess.run(
        ["cpio", "--extract", "--quiet", "--make-directories", "--no-preserve-owner"],
        input=cpio.archive(NODES),
        cwd=tmp_path,
        check=True,
        timeout=30,
    )
    assert (tmp_path / "bin/tool").read_bytes() == b"#!/bin/sh\n"
    assert stat.S_IMODE((tmp_path / "bin/tool").stat().st_mode) == 0o755
    assert os.readlink(tmp_path / "bin/link") == "tool"
    assert (tmp_path / "empty").stat().st_size == 0
    assert stat.S_IMODE((tmp_path / "odd").stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin", "dev", "empty", "odd"]


def test_devices_and_owners_are_listed_as_asked() -> None:
    made = cpio.archive({"console": cpio.character_device(5, 1)})
    listed = subprocess.run(
        ["cpio", "--list", "--verbose", "--numeric-uid-gid", "--quiet"],
        input=made,
        capture_output=True,
        check=True,
        timeout=30,
    ).stdout.decode()
    assert listed.startswith("crw-------")
    assert "5,   1" in listed
    assert listed.split()[2:4] == ["0", "0"]


def test_compression_is_undone_by_zstd() -> None:
    data = cpio.archive(NODES) * 40
    packed = cpio.compress(data)
    assert len(packed) < len(data) // 10
    assert subprocess.run(["zstd", "-dc"], input=packed, capture_output=True, check=True, timeout=30).stdout == data

"""The busybox image: the same each time, and made of hard links."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from kata.images import ImageStore, busybox, import_busybox


def test_same_input_same_digest(tmp_path: Path) -> None:
    images = [import_busybox(ImageStore(tmp_path / name), print) for name in "ab"]
    assert images[0] == images[1]
    assert images[0].name == "busybox:latest"
    config = ImageStore(tmp_path / "a").inspect(images[0])
    assert config.cmd == ("sh",)
    assert config.env[0].startswith("PATH=/usr/local/sbin:")


def test_layer() -> None:
    data = busybox.write_layer(b"\x7fELF", ["bin/sh", "usr/bin/awk", "bin/busybox", "linuxrc", "../evil", "x/y"])
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        members = {member.name: member for member in archive}
    assert members["bin/sh"].islnk()
    assert members["usr/bin/awk"].linkname == "bin/busybox"
    assert not {"linuxrc", "../evil", "x/y"} & set(members)
    assert members["tmp"].mode == 0o1777
    assert {(member.uid, member.gid, member.mtime) for member in members.values()} == {(0, 0, 0)}


def test_static_binaries(tmp_path: Path) -> None:
    assert busybox.is_static(Path("/bin/busybox"))
    assert not busybox.is_static(Path("/bin/sh"))
    assert not busybox.is_static(tmp_path / "none")
    (tmp_path / "short").write_bytes(b"\x7fELF\x02")
    assert not busybox.is_static(tmp_path / "short")

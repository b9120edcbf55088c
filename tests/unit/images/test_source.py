"""Every form of a reference means one thing."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from kata.images.errors import ImageNotFoundError, InvalidNameError
from kata.images.source import Kind, Source, classify, is_explicit, look_at
from tests.unit.images import crafted

THERE = {
    "/l": Kind.OCI,
    "/a.tar": Kind.OCI_ARCHIVE,
    "/d.tar": Kind.DOCKER_ARCHIVE,
    "./root": Kind.ROOTFS,
    "root": Kind.ROOTFS,
    "odd:name": Kind.ROOTFS,
    "/r": Kind.ROOTFS,
}


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("busybox", Source(Kind.REGISTRY, "docker.io/library/busybox:latest")),
        ("quay.io/a/b:1", Source(Kind.REGISTRY, "quay.io/a/b:1")),
        ("docker://busybox:1", Source(Kind.REGISTRY, "docker.io/library/busybox:1")),
        ("docker://root", Source(Kind.REGISTRY, "docker.io/library/root:latest")),
        ("apt://busybox-static", Source(Kind.BUSYBOX)),
        ("oci:/l", Source(Kind.OCI, "/l")),
        ("oci:/l:tag", Source(Kind.OCI, "/l", "tag")),
        ("oci:/nowhere:a/b:c", Source(Kind.OCI, "/nowhere", "a/b:c")),
        ("oci-archive:/a.tar:x", Source(Kind.OCI_ARCHIVE, "/a.tar", "x")),
        ("docker-archive:/d.tar:x:1", Source(Kind.DOCKER_ARCHIVE, "/d.tar", "x:1")),
        ("dir:/x", Source(Kind.SKOPEO_DIR, "/x")),
        ("rootfs:/l", Source(Kind.ROOTFS, "/l")),
        ("/l", Source(Kind.OCI, "/l")),
        ("/l:tag", Source(Kind.OCI, "/l", "tag")),
        ("/a.tar:tag", Source(Kind.OCI_ARCHIVE, "/a.tar", "tag")),
        ("/r", Source(Kind.ROOTFS, "/r")),
        ("./root", Source(Kind.ROOTFS, os.path.abspath("root"))),
        ("root", Source(Kind.ROOTFS, os.path.abspath("root"))),
        ("odd:name", Source(Kind.ROOTFS, os.path.abspath("odd:name"))),
        ("root:tag", Source(Kind.REGISTRY, "docker.io/library/root:tag")),
    ],
)
def test_classify(reference: str, expected: Source) -> None:
    assert classify(reference, THERE.get) == expected


@pytest.mark.parametrize(
    "reference",
    [
        "", "\n", "a\0b", "x" * 5000, "http://x/y", "apt://bash", "docker-daemon:x", "containers-storage:x",
        "tarball:x", "ostree:x", "sif:x", "oci:", "oci::x", "dir:/a:b", "rootfs:", "docker://-x", "-x", "docker://",
        "--policy=/x",
    ],
)  # fmt: skip
def test_refused(reference: str) -> None:
    with pytest.raises(InvalidNameError):
        classify(reference, THERE.get)


@pytest.mark.parametrize("reference", ["./x", "/x", "../x", ".", "/r:tag", "./busybox"])
def test_a_path_is_never_a_name(reference: str) -> None:
    with pytest.raises(ImageNotFoundError):
        classify(reference, THERE.get)


@pytest.mark.parametrize(
    ("reference", "explicit"),
    [("busybox", False), ("x:1", False), ("./x", True), ("oci:x", True), ("docker://x", True), ("sif:x", True)],
)
def test_is_explicit(reference: str, explicit: bool) -> None:
    assert is_explicit(reference) is explicit


def test_look_at_real_things(tmp_path: Path) -> None:
    crafted.small(tmp_path / "layout")
    skopeo_dir, archive, docker, gz = (tmp_path / name for name in ("dir", "a.tar", "d.tar", "a.tar.gz"))
    for target in (f"dir:{skopeo_dir}", f"oci-archive:{archive}:x", f"docker-archive:{docker}:x:1"):
        crafted.skopeo("copy", "-q", f"oci:{tmp_path / 'layout'}:x", target)
    with tarfile.open(gz, "w:gz") as both:
        for name in ("manifest.json", "index.json", "oci-layout"):
            both.addfile(tarfile.TarInfo(f"./{name}"), io.BytesIO())
    (tmp_path / "root").mkdir()
    assert look_at(str(tmp_path / "layout")) is Kind.OCI
    assert look_at(str(skopeo_dir)) is Kind.SKOPEO_DIR
    assert look_at(str(archive)) is Kind.OCI_ARCHIVE
    assert look_at(str(docker)) is Kind.DOCKER_ARCHIVE
    assert look_at(str(gz)) is Kind.OCI_ARCHIVE
    assert look_at(str(tmp_path / "root")) is Kind.ROOTFS
    assert look_at(str(tmp_path / "none")) is None


def test_look_at_what_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello" * 1000)
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "fifo")
    for name in ("text", "empty", "fifo"):
        with pytest.raises(InvalidNameError):
            look_at(str(tmp_path / name))

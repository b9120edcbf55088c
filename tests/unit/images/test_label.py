"""What an image is called when nobody says."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from kata.images.errors import InvalidNameError
from kata.images.label import suggest
from kata.images.source import Kind, Source

CONTAINERD = "io.containerd.image.name"
REF = "org.opencontainers.image.ref.name"
DIGEST = f"sha256:{'0' * 64}"


def index(**annotations: str) -> dict[str, Any]:
    return {"manifests": [{"mediaType": "x", "digest": DIGEST, "size": 1, "annotations": annotations}]}


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ({CONTAINERD: "docker.io/library/a:1", REF: "1"}, "a:1"),
        ({REF: "quay.io/x/y:2"}, "quay.io/x/y:2"),
        ({REF: "v3"}, "app:v3"),
        ({}, "app:latest"),
        ({CONTAINERD: "../../etc", REF: "-x:y"}, ""),
    ],
)
def test_oci(tmp_path: Path, annotations: dict[str, str], expected: str) -> None:
    place = tmp_path / "app"
    place.mkdir()
    (place / "index.json").write_text(json.dumps(index(**annotations)))
    with tarfile.open(tmp_path / "App.tar.gz", "w:gz") as archive:
        archive.add(place / "index.json", "index.json")
    for source in (Source(Kind.OCI, str(place)), Source(Kind.OCI_ARCHIVE, str(tmp_path / "App.tar.gz"))):
        if expected:
            assert suggest(source) == expected
        else:
            with pytest.raises(InvalidNameError):
                suggest(source)


def test_docker(tmp_path: Path) -> None:
    content = json.dumps([{"Config": "c", "RepoTags": ["docker.io/library/a:1", "b:2"]}]).encode()
    with tarfile.open(tmp_path / "d.tar", "w") as archive:
        member = tarfile.TarInfo("manifest.json")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    path = str(tmp_path / "d.tar")
    assert suggest(Source(Kind.DOCKER_ARCHIVE, path)) == "a:1"
    assert suggest(Source(Kind.DOCKER_ARCHIVE, path, "b:2")) == "b:2"


def test_others(tmp_path: Path) -> None:
    assert suggest(Source(Kind.ROOTFS, "/x/Debian")) == "debian:latest"
    assert suggest(Source(Kind.REGISTRY, "docker.io/library/x:1")) == "x:1"
    assert suggest(Source(Kind.BUSYBOX)) == "busybox:latest"
    with pytest.raises(InvalidNameError):
        suggest(Source(Kind.ROOTFS, "/x/- -"))

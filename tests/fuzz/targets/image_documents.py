"""What a registry or an archive says of an image: index, manifest, configuration, and the name that it goes by."""

from __future__ import annotations

import json
import re

from kata.images import config, label, layout
from kata.images.errors import MalformedImageError
from kata.images.layout import Descriptor, Index, Manifest

DIGEST = "sha256:" + "a" * 64
_CONFIG = {
    "architecture": "amd64",
    "os": "linux",
    "rootfs": {"type": "layers", "diff_ids": [DIGEST]},
    "config": {
        "Env": ["PATH=/bin"],
        "Cmd": ["sh"],
        "User": "1:2",
        "WorkingDir": "../a",
        "StopSignal": "SIGRTMIN+3",
        "Volumes": {"/a": {}},
        "ExposedPorts": {"80/tcp": {}},
        "Labels": None,
    },
}
_DESCRIPTOR = {"mediaType": layout.MANIFEST_TYPE, "digest": DIGEST, "size": 1}
SEEDS = (
    json.dumps(_CONFIG).encode(),
    json.dumps(
        {"schemaVersion": 2, "config": {**_DESCRIPTOR, "mediaType": layout.CONFIG_TYPE}, "layers": [_DESCRIPTOR]}
    ).encode(),
    json.dumps({"manifests": [{**_DESCRIPTOR, "annotations": {layout.REF_NAME: "docker.io/library/a:b"}}]}).encode(),
    json.dumps([{"RepoTags": ["a:b", "c"]}]).encode(),
)
TOKENS = (
    b"null",
    b"[]",
    b"{}",
    b"-1",
    b"1e400",
    b"1.0",
    b'"\\ud800"',
    b'"\\u0000"',
    b"\xff",
    b"[[[[[[[[",
    b"sha256:../",
    DIGEST.encode(),
)


def target(data: bytes) -> None:
    """All three documents of the same bytes; what is accepted keeps what the specification promises."""
    try:
        _check(config.parse(data, 1))
    except MalformedImageError:
        pass
    for kind in (Index, Manifest, list[label._DockerImage]):
        try:
            found = layout.decode(data, kind)
        except MalformedImageError:
            continue
        if isinstance(found, Index):
            label._index_name(found, "")
            _descriptors(found.manifests)
        elif isinstance(found, Manifest):
            _descriptors(list(found.blobs()))
        elif isinstance(found, list):
            label._docker_name(found, "a")


def _check(found: config.ImageConfig) -> None:
    for path in (found.working_dir, *found.volumes):
        assert not path or path.startswith("/")
        assert ".." not in path.split("/")
        path.encode()
    for text in (*found.env, *found.entrypoint, *found.cmd):
        assert "\0" not in text
        text.encode()


def _descriptors(found: list[Descriptor]) -> None:
    for one in found:
        assert re.fullmatch(r"sha256:[0-9a-f]{64}", one.digest)
        assert one.size >= 0

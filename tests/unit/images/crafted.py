"""Makes images of any content, hostile ones too, as OCI layouts, without the code under test."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any

GO_ARCH = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
LAYER = "application/vnd.oci.image.layer.v1.tar"
PASSWD = b"root:x:0:0:root:/root:/bin/sh\nweb:x:33:33:web:/var/www:/bin/false\n"


def entry(name: str, data: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    """One tar member; `fields` are attributes of TarInfo."""
    member = tarfile.TarInfo(name)
    for key, value in fields.items():
        setattr(member, key, value)
    if member.isreg():
        member.size = len(data)
    return member, data


def tar(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member, data in entries:
            archive.addfile(member, io.BytesIO(data) if member.isreg() else None)
    return buffer.getvalue()


def image(place: Path, *layers: bytes, ref: str = "x", compress: str = "gzip", **changes: Any) -> str:
    """Write a layout at `place` with one image and return its digest. `changes` go into the configuration."""
    (place / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
    blobs = [_blob(place, _compress(layer, compress)) for layer in layers]
    document = {
        "architecture": GO_ARCH,
        "os": "linux",
        "config": {"Cmd": ["sh"], "Env": ["A=b"]},
        "rootfs": {"type": "layers", "diff_ids": [_digest(layer) for layer in layers]},
        **changes,
    }
    media_type = LAYER + (f"+{compress}" if compress else "")
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            **_blob(place, json.dumps(document).encode()),
        },
        "layers": [{"mediaType": media_type, **blob} for blob in blobs],
    }
    return entry_point(place, json.dumps(manifest).encode(), ref)


def entry_point(place: Path, manifest: bytes, ref: str = "x") -> str:
    """Make `manifest` the only image of the layout."""
    descriptor: dict[str, Any] = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        **_blob(place, manifest),
        "annotations": {"org.opencontainers.image.ref.name": ref},
    }
    (place / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (place / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [descriptor]}))
    return str(descriptor["digest"])


def small(place: Path, **changes: Any) -> str:
    """An ordinary small image."""
    return image(place, tar(entry("etc/passwd", PASSWD), entry("etc/group", b"root:x:0:\nextra:x:7:web\n")), **changes)


def skopeo(*arguments: str) -> bytes:
    """Run skopeo, the oracle."""
    return subprocess.run(
        ["skopeo", "--insecure-policy", *arguments], check=True, stdout=subprocess.PIPE, timeout=60
    ).stdout


def _compress(data: bytes, how: str) -> bytes:
    if how == "gzip":
        return gzip.compress(data, mtime=0)
    if how == "zstd":
        return subprocess.run(["zstd", "-c"], input=data, stdout=subprocess.PIPE, check=True, timeout=60).stdout
    return data


def _blob(place: Path, data: bytes) -> dict[str, Any]:
    digest = _digest(data)
    (place / "blobs" / "sha256" / digest.removeprefix("sha256:")).write_bytes(data)
    return {"digest": digest, "size": len(data)}


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"

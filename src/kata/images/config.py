"""The configuration of an image: what its author says about how to run it. Hostile, so parsed strictly.

Facts: OCI image-spec 1.1, config.md; null stands for absent, as Go's encoder writes it. Called by the store.
Never act on any of it here.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path

import msgspec

from kata.images import layout
from kata.images.errors import MalformedImageError, WrongPlatformError
from kata.images.layout import Manifest

GO_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "riscv64": "riscv64", "ppc64le": "ppc64le", "s390x": "s390x"}
"""`uname -m` to the name that images use (Go's GOARCH)."""

DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_STOP_SIGNAL = re.compile(r"(?:[0-9]{1,2}|(?:SIG)?[A-Z][A-Z0-9]{0,9}(?:[+-][0-9]{1,2})?)?", re.ASCII)


class ImageConfig(msgspec.Struct, frozen=True):
    """What an image wants; every field may be empty. Paths are absolute and without `..`."""

    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    user: str = ""
    working_dir: str = ""
    stop_signal: str = ""
    volumes: tuple[str, ...] = ()
    exposed_ports: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    architecture: str = ""
    os: str = ""
    created: str = ""


class _Execution(msgspec.Struct, frozen=True, rename="pascal"):
    """The `config` object; its keys are spelt like Go's fields."""

    env: list[str] | None = None
    entrypoint: list[str] | None = None
    cmd: list[str] | None = None
    user: str | None = None
    working_dir: str | None = None
    stop_signal: str | None = None
    volumes: dict[str, dict[str, None]] | None = None
    exposed_ports: dict[str, dict[str, None]] | None = None
    labels: dict[str, str] | None = None


class _RootFs(msgspec.Struct, frozen=True):
    type: str
    diff_ids: list[str] | None = None


class _Configuration(msgspec.Struct, frozen=True):
    """The document of type application/vnd.oci.image.config.v1+json."""

    architecture: str
    os: str
    rootfs: _RootFs
    config: _Execution | None = None
    created: str | None = None


def read(place: Path, manifest: Manifest) -> ImageConfig:
    """The configuration of an image in the layout `place`. Raises MalformedImageError."""
    try:
        with layout.blob_path(place, manifest.config.digest).open("rb") as file:
            data = file.read(layout.MAX_DOCUMENT + 1)
    except FileNotFoundError:
        raise MalformedImageError("the image has lost its configuration", hint="import it again") from None
    if len(data) > layout.MAX_DOCUMENT:
        raise MalformedImageError(f"the image's configuration is larger than {layout.MAX_DOCUMENT >> 20} MiB")
    return parse(data, len(manifest.layers))


def parse(data: bytes, layers: int) -> ImageConfig:
    """The configuration from its document; `layers` is what the manifest counts. Raises MalformedImageError."""
    document = layout.decode(data, _Configuration)
    if document.rootfs.type != "layers" or len(document.rootfs.diff_ids or ()) != layers:
        raise MalformedImageError("the image's configuration does not list the layers that its manifest has")
    wanted = document.config or _Execution()
    config = ImageConfig(
        env=tuple(wanted.env or ()),
        entrypoint=tuple(wanted.entrypoint or ()),
        cmd=tuple(wanted.cmd or ()),
        user=wanted.user or "",
        working_dir=_absolute(wanted.working_dir or ""),
        stop_signal=wanted.stop_signal or "",
        volumes=tuple(sorted(_absolute(path) for path in wanted.volumes or ())),
        exposed_ports=tuple(sorted(wanted.exposed_ports or ())),
        labels=wanted.labels or {},
        architecture=document.architecture,
        os=document.os,
        created=document.created or "",
    )
    _check(config)
    return config


def require_platform(config: ImageConfig, machine: str = "") -> None:
    """Raise WrongPlatformError unless the image is for Linux on `machine` (default: this one, as uname -m)."""
    machine = machine or os.uname().machine
    ours = GO_ARCHITECTURES.get(machine, machine)
    if config.os not in ("", "linux") or config.architecture not in ("", ours):
        raise WrongPlatformError(
            f"the image is for {config.os[:40]}/{config.architecture[:40]}, this machine runs linux/{ours}",
            hint=f"get the image's linux/{ours} variant",
        )


def _absolute(path: str) -> str:
    """A path as seen from the container's root, where a relative one starts."""
    return posixpath.normpath("/" + path.lstrip("/")) if path else ""


def _check(config: ImageConfig) -> None:
    texts = (*config.env, *config.entrypoint, *config.cmd, config.user, config.working_dir, *config.volumes)
    if any("\0" in text for text in texts):
        raise MalformedImageError("the image's configuration has a NUL character in it")
    for entry in config.env:
        if entry.find("=") < 1:
            raise MalformedImageError(f"the image's environment has {entry[:80]!r}, which is not NAME=value")
    if not _STOP_SIGNAL.fullmatch(config.stop_signal):
        raise MalformedImageError(f"the image's stop signal {config.stop_signal[:80]!r} is no signal")

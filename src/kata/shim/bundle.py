"""A container's bundle: the folder that containerd made, with config.json, rootfs and the log's FIFO."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, cast

from kata.errors import KataError

if TYPE_CHECKING:
    from kata.oci.spec import Spec

SPEC_LIMIT = 16 << 20
"""Bytes of a config.json; a specification is a few tens of KiB."""


class BundleError(KataError):
    """The bundle of a container cannot be used."""

    layer = "config"


def read_spec(bundle: str) -> Spec:
    """The specification in a bundle. Raises BundleError."""
    path = os.path.join(bundle, "config.json")
    try:
        with open(path, "rb") as file:
            data = file.read(SPEC_LIMIT + 1)
        if len(data) > SPEC_LIMIT:
            raise BundleError(f"{path} has more than {SPEC_LIMIT >> 20} MiB")
        spec = json.loads(data)
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}", hint="the container manager makes it") from error
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path} is no JSON: {error}", hint="the container manager makes it") from error
    if not isinstance(spec, dict) or not isinstance(spec.get("process"), dict):
        raise BundleError(f"{path} is no specification of a container", hint="it must have a process")
    return cast("Spec", spec)


def annotations_of(spec: Spec) -> dict[str, str]:
    """The annotations, those that are text."""
    found = spec.get("annotations") or {}
    return {key: value for key, value in found.items() if isinstance(value, str)}


def write_once(bundle: str, name: str, text: str) -> None:
    """Put a small file into the bundle in one step. Raises OSError."""
    path = os.path.join(bundle, name)
    temporary = f"{path}.{os.getpid()}"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
    os.rename(temporary, path)

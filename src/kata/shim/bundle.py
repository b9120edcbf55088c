"""A container's bundle: the folder that containerd made, with config.json, rootfs and the log's FIFO."""

from __future__ import annotations

import json
import os
import stat
from typing import TYPE_CHECKING, cast

from kata.errors import KataError

if TYPE_CHECKING:
    from kata.oci.spec import Spec

SPEC_LIMIT = 16 << 20
"""Bytes of a config.json; a specification is a few tens of KiB."""
OBJECTS = ("process", "root", "linux", "annotations", "hooks")


class BundleError(KataError):
    """The bundle of a container cannot be used."""

    layer = "config"


def read_spec(bundle: str) -> Spec:
    """The specification in a bundle, without what is null: engines written in Go mean "absent" by it.

    Of what is in it only the outermost types are certain; see `read_checked`. Raises BundleError.
    """
    path = os.path.join(bundle, "config.json")
    try:
        spec = json.loads(_read(path), object_pairs_hook=_without_nulls)
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}", hint="the container manager makes it") from error
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path} is no JSON: {error}", hint="the container manager makes it") from error
    if not isinstance(spec, dict) or "process" not in spec:
        raise BundleError(f"{path} is no specification of a container", hint="it must have a process")
    for key in OBJECTS:
        if key in spec and not isinstance(spec[key], dict):
            raise BundleError(f"{path} is no specification of a container: {key} must be an object")
    return cast("Spec", spec)


def read_checked(bundle: str) -> Spec:
    """The same, where all that is known of a specification has its type, and can be said to a guest.

    From then on nobody has to ask what a field holds. Takes half a millisecond. Raises BundleError, SpecError.
    """
    from kata.oci.convert import check  # the start of a shim does without

    spec = read_spec(bundle)
    check(spec)
    return spec


def _read(path: str) -> bytes:
    # Not blocking, so that a FIFO in its place is refused and not waited for.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise BundleError(f"{path} is no file")
        data = file.read(SPEC_LIMIT + 1)
    if len(data) > SPEC_LIMIT:
        raise BundleError(f"{path} has more than {SPEC_LIMIT >> 20} MiB")
    return data


def _without_nulls(pairs: list[tuple[str, object]]) -> dict[str, object]:
    return {key: value for key, value in pairs if value is not None}


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

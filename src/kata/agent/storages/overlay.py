"""Driver "overlayfs": layers that are mounted already, seen as one tree, writable in the guest's memory.

Called through the registry. The writable part lies in the container's own folder below the run directory, which is
a tmpfs, and is removed with the mount.
"""

from __future__ import annotations

import os

from kata.agent.storages.context import Directory, MountRequest
from kata.agent.storages.errors import InvalidStorage
from kata.linux.mountoptions import parse_options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.agent.storages.context import StorageContext
    from kata.protocol.generated import agent_pb2

WRITABLE = "io.katacontainers.fs-opt.overlay-rw"
"""Option: add an upper and a work directory."""
CREATE_DIRECTORY = "io.katacontainers.volume.overlayfs.create_directory"
"""Driver option, with =<path>: make this directory first."""
LAYERS = "sandbox/layers"
"""Where layers that are given by a relative name are, below the run directory."""
_SCRATCH_MODE = 0o700


def handle_overlay(storage: agent_pb2.Storage, context: StorageContext, container_id: str) -> MountRequest:
    """The overlay of the `lowerdir=` layers. Raises InvalidStorage."""
    layers = f"{context.run_dir}/{LAYERS}"
    words = [_place_layers(word, layers) for word in storage.options]
    directories = tuple(Directory(path) for path in _asked_directories(storage))
    scratch: tuple[str, ...] = ()
    if WRITABLE in storage.options:
        folder = _container_folder(context, container_id)
        scratch = (f"{folder}/upper", f"{folder}/work")
        words += [f"upperdir={scratch[0]}", f"workdir={scratch[1]}"]
        # the upper directory's mode is that of the merged root
        directories += (Directory(scratch[0]), Directory(scratch[1], _SCRATCH_MODE))
    options = parse_options(words)
    return MountRequest(
        Directory(storage.mount_point),
        storage.source or "overlay",
        "overlay",
        options.flags,
        options.propagation,
        options.data,
        directories=directories,
        scratch=scratch,
    )


def _place_layers(word: str, layers: str) -> str:
    """Layer names that are no paths are below `layers`."""
    key, found, value = word.partition("=")
    if key != "lowerdir" or not found:
        return word
    return "lowerdir=" + ":".join(os.path.join(layers, layer) for layer in value.split(":"))


def _asked_directories(storage: agent_pb2.Storage) -> list[str]:
    paths = []
    for option in storage.driver_options:
        key, _, path = option.partition("=")
        if key == CREATE_DIRECTORY:
            if not path.startswith("/"):
                raise InvalidStorage(f"{CREATE_DIRECTORY} needs an absolute path, not {path!r}")
            paths.append(path)
    return paths


def _container_folder(context: StorageContext, container_id: str) -> str:
    if not container_id or "/" in container_id or container_id in (".", ".."):
        raise InvalidStorage(f"a writable overlay belongs to a container, and {container_id!r} is no container id")
    return f"{context.run_dir}/{container_id}"

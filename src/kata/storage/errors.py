"""What can go wrong when the host shares storage with a guest.

StorageError
 +-- VolumeError ... a path cannot be shared                 (config)
 +-- DaemonError ... virtiofsd is missing or did not start   (host)
"""

from __future__ import annotations

from kata.errors import KataError


class StorageError(KataError):
    """Storage of the host cannot be given to a guest."""

    layer = "host"


class VolumeError(StorageError):
    """A path that was asked for cannot be shared."""

    layer = "config"


class DaemonError(StorageError):
    """The file-sharing daemon cannot be started; `detail` holds its own words."""

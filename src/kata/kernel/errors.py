"""What can go wrong while the guest kernel, or any other asset, is fetched or built.

KernelError
 +-- PackageError ... apt does not know, cannot reach or cannot verify a Debian package
 +-- AssetError ..... an asset or its manifest cannot be written, or another build holds the lock
 +-- ConfigError .... a configuration fragment asks for what the kernel's own rules do not allow
 +-- ToolError ...... programs that a build needs are missing
"""

from __future__ import annotations

from kata.errors import KataError


class KernelError(KataError):
    """The guest kernel cannot be had."""

    layer = "host"


class PackageError(KernelError):
    """A Debian package cannot be resolved, downloaded or read."""


class AssetError(KernelError):
    """An asset cannot be written in its place."""


class ConfigError(KernelError):
    """The kernel's configuration is not what the fragments ask for."""


class ToolError(KernelError):
    """Programs or headers that a build needs are not installed."""

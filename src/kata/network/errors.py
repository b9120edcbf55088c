"""What can go wrong with a sandbox's network.

NetworkError
 +-- NamespaceError ........... there is no such namespace, or it is not one for a sandbox (host)
 +-- UnsupportedInterfaceError  an interface of a kind that no guest can have             (config)
 +-- AttachError .............. an interface cannot be joined to the VM                   (host)
 +-- ModelError ............... the configuration asks for what there is not              (config)
"""

from __future__ import annotations

from kata.errors import KataError


class NetworkError(KataError):
    """The network of a sandbox cannot be had."""


class NamespaceError(NetworkError):
    """A network namespace cannot be used."""


class UnsupportedInterfaceError(NetworkError):
    """An interface in the namespace cannot be given to a guest."""

    layer = "config"


class AttachError(NetworkError):
    """An interface could not be joined to the VM; nothing of it is left."""


class ModelError(NetworkError):
    """A network setting is not acceptable; nothing was done."""

    layer = "config"

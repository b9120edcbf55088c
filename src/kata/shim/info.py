"""The answer to `-info`, with which containerd 2.x asks what a runtime is."""

from __future__ import annotations

from kata.protocol.generated.host import shim_pb2
from kata.version import __version__

RUNTIME = "io.containerd.kata.v2"


def runtime_info() -> bytes:
    """A serialised RuntimeInfo. What options stand on standard input changes nothing in it."""
    return shim_pb2.RuntimeInfo(name=RUNTIME, version=shim_pb2.RuntimeVersion(version=__version__)).SerializeToString()

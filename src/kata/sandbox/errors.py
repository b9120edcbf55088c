"""Errors of sandboxes and containers.

SandboxError
 +-- ConfigError ........ what was asked for cannot be built               (config)
 +-- NotFoundError ...... no sandbox, container or process of that name    (host)
 +-- ConflictError ...... the state forbids it                             (host)
 |    +-- ExistsError ... the name is taken                               (host)
 +-- GuestError ......... the guest did not start, or its agent is gone    (guest)
 +-- ContainerError ..... the agent refused or failed at a container       (container)
      +-- CommandNotFoundError ........ its program is not in the image    (exit code 127)
      +-- CommandNotRunnableError ..... its program cannot be executed     (exit code 126)
"""

from __future__ import annotations

from kata.errors import KataError


class SandboxError(KataError):
    """Root of this room's errors."""


class ConfigError(SandboxError):
    """What was asked for cannot be built."""

    layer = "config"


class NotFoundError(SandboxError):
    """No sandbox, container or process of that name."""


class ConflictError(SandboxError):
    """The name is taken, or the state of the sandbox forbids what was asked."""


class ExistsError(ConflictError):
    """There is one of that name already."""


class GuestError(SandboxError):
    """The guest did not start, or its agent is gone; `detail` holds the console's tail."""

    layer = "guest"


class ContainerError(SandboxError):
    """The agent refused or failed at something of one container."""

    layer = "container"


class CommandNotFoundError(ContainerError):
    """The container's program is not in its image."""


class CommandNotRunnableError(ContainerError):
    """The container's program is there, but cannot be executed."""

"""What can go wrong with storages. `service.to_status` maps these to RPC codes.

AgentError
 +-- StorageError ............ it cannot be mounted or given back             INTERNAL
 |    +-- UnsupportedStorage . asked for something that this agent cannot     UNIMPLEMENTED
 +-- BadRequest
      +-- InvalidStorage ..... the message can never work                     INVALID_ARGUMENT
"""

from __future__ import annotations

from kata.agent.errors import AgentError, BadRequest, Unsupported


class StorageError(AgentError):
    """A storage cannot be mounted, or not be given back."""


class UnsupportedStorage(StorageError, Unsupported):  # noqa: N818 - the room's errors are named after what they say
    """The storage asks for something that this agent cannot do; doing it by half would be worse."""


class InvalidStorage(BadRequest):
    """A Storage message that can never work."""

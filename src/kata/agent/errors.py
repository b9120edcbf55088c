"""What can go wrong in the guest. `service.to_status` alone maps these to RPC codes.

KataError
 +-- AgentError ............... anything in the guest                      INTERNAL
      +-- ConfigError ......... a malformed agent.* kernel parameter       (console)
      +-- BadRequest .......... the request makes no sense                 INVALID_ARGUMENT
      |    +-- UnknownContainer  bad or unknown container id               INVALID_ARGUMENT
      +-- UnknownProcess ...... no such exec in the container              NOT_FOUND
      +-- AlreadyExists ....... container, exec or sandbox is there        ALREADY_EXISTS
      +-- WrongState .......... not now (not created, being removed ...)   FAILED_PRECONDITION
      +-- NoTerminal .......... resize without a terminal                  UNAVAILABLE
      +-- SandboxGone ......... the sandbox is being destroyed             UNAVAILABLE
      +-- Unsupported ......... this agent or this guest cannot do it      UNIMPLEMENTED
      +-- TimedOut ............ what was waited for did not come           DEADLINE_EXCEEDED
      +-- ContainerError ...... crun or the container's command failed     INTERNAL
           +-- ContainerTimeout  crun or a removal took too long           INTERNAL
"""

# ruff: noqa: N818 - the names say what happened, the tree above says that they are errors

from __future__ import annotations

from kata.errors import KataError


class AgentError(KataError):
    """Root of this room's errors."""

    layer = "guest"


class ConfigError(AgentError):
    """A kernel parameter of ours cannot be understood."""

    layer = "config"


class BadRequest(AgentError):
    """The request can never succeed as it is."""


class UnknownContainer(BadRequest):
    """Upstream answers INVALID_ARGUMENT here, and its shim relies on it."""

    def __init__(self, container_id: str) -> None:
        super().__init__(f"Invalid container id {container_id!r}: not found")


class UnknownProcess(AgentError):
    """No process with this exec id is known in the container."""


class AlreadyExists(AgentError):
    """An id is in use."""


class WrongState(AgentError):
    """The call does not fit the state of the sandbox, container or stream."""


class NoTerminal(AgentError):
    """A terminal's call on a process that has none."""


class SandboxGone(AgentError):
    """What blocked is given up because the sandbox ends."""


class Unsupported(AgentError):
    """Something that this agent, or this guest's kernel, cannot do; doing it by half would be worse."""


class TimedOut(AgentError):
    """What was waited for did not come in time."""


class ContainerError(AgentError):
    """crun refused or failed; the text holds what crun said."""

    layer = "container"


class ContainerTimeout(ContainerError):
    """crun, or the removal of a container, did not end in time."""

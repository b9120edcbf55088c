"""What can go wrong with devices. `service.to_status` maps these to RPC codes.

AgentError
 +-- DeviceError .......... a device cannot be given to a container           INTERNAL
 |    +-- DeviceTimeout ... the device did not appear in time                DEADLINE_EXCEEDED
 +-- BadRequest
      +-- InvalidDevice ... the request names no usable device               INVALID_ARGUMENT
      +-- UpdateError ..... (kata.agent.updates) updates and spec do not fit  INVALID_ARGUMENT
"""

from __future__ import annotations

from kata.agent.errors import AgentError, BadRequest, TimedOut


class DeviceError(AgentError):
    """A device cannot be given to a container."""


class InvalidDevice(BadRequest):
    """A Device message that can never work: a field is missing, malformed or unknown."""


class DeviceTimeout(DeviceError, TimedOut):  # noqa: N818 - named like TimeoutError
    """A device that the host announced did not appear in the guest in time."""

    def __init__(self, what: str, timeout: float) -> None:
        super().__init__(
            f"Timeout after {timeout:g} s waiting for {what}",
            hint="The kernel parameter agent.hotplug_timeout=<seconds> allows more time.",
        )

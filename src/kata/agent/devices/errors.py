"""What can go wrong with devices. `service.to_status` maps these to RPC codes.

AgentError
 +-- DeviceError .......... a device cannot be given to a container           INTERNAL
 |    +-- DeviceTimeout ... the device did not appear in time                DEADLINE_EXCEEDED
 |    +-- CdiTimeout ...... no CDI file described the device in time         DEADLINE_EXCEEDED
 |    +-- CdiSpecError .... (cdi_spec) a CDI file cannot be used             INTERNAL
 +-- BadRequest
      +-- InvalidDevice ... the request names no usable device               INVALID_ARGUMENT
      +-- UpdateError ..... (kata.agent.updates) updates and spec do not fit  INVALID_ARGUMENT
"""

from __future__ import annotations

from kata.agent.errors import AgentError, BadRequest, TimedOut

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


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


class CdiTimeout(DeviceError, TimedOut):  # noqa: N818 - as above
    """What a CDI device is in this guest was not said in time; the files that could not be read are named."""

    def __init__(self, what: str, timeout: float, problems: Iterable[DeviceError]) -> None:
        found = "; ".join(problem.what for problem in problems)
        super().__init__(
            f"Timeout after {timeout:g} s waiting for CDI device {what}" + (f" ({found})" if found else ""),
            hint="The kernel parameter agent.cdi_timeout=<seconds> allows more time.",
        )

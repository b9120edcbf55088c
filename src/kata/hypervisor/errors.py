"""What can go wrong with a VMM.

HypervisorError
 +-- SpecError ............. the machine as described cannot be built          (config)
 +-- StartError ............ the VMM ended, or did not answer, while starting  (VMM)
 +-- NoPlaceError .......... the machine takes no more devices of this kind    (VMM)
 +-- IdentityError ......... no user id is left for the VMM to run as          (host)
 +-- QmpError .............. talking to the VMM failed                         (VMM)
      +-- QmpProtocolError . the peer said something that is not QMP
      +-- QmpClosedError ... the connection is gone
      +-- QmpTimeoutError .. no answer, or no event, in time
      +-- QmpCommandError .. the VMM refused a command; `error_class` is its own word for it
"""

from __future__ import annotations

from kata.errors import KataError


class HypervisorError(KataError):
    """The VMM cannot do what was asked. `detail` holds its own words where it had any."""

    layer = "VMM"


class SpecError(HypervisorError):
    """A value of the MachineSpec is not acceptable; nothing was started."""

    layer = "config"


class StartError(HypervisorError):
    """The VMM was started but ended or stayed silent."""


class NoPlaceError(HypervisorError):
    """Every place for a device of this kind is taken, or the machine has none."""


class IdentityError(HypervisorError):
    """Every user id of the range for VMMs is in use."""

    layer = "host"


class QmpError(HypervisorError):
    """The machine protocol of QEMU failed."""


class QmpProtocolError(QmpError):
    """The peer sent something that is not QMP."""


class QmpClosedError(QmpError):
    """The connection was closed by either side."""


class QmpTimeoutError(QmpError):
    """What was waited for did not come in time."""


class QmpCommandError(QmpError):
    """QEMU refused a command; `error_class` is QAPI's (`GenericError`, `CommandNotFound`, …)."""

    def __init__(self, command: str, error_class: str, description: str) -> None:
        super().__init__(f"QEMU refused {command}: {description}")
        self.error_class = error_class
        self.description = description

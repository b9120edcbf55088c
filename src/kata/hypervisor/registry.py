"""Finds a hypervisor driver by its name in the configuration. The only place that lists the drivers.

A driver is named as `module:class` and loaded on first use, so that one driver never pays for another's imports.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, cast

from kata.hypervisor.errors import SpecError

if TYPE_CHECKING:
    from kata.hypervisor.machine import Machine, MachineSpec

DRIVERS = {"qemu": "kata.hypervisor.qemu.machine:QemuMachine"}


def names() -> tuple[str, ...]:
    """The drivers there are, in alphabetical order."""
    return tuple(sorted(DRIVERS))


def create(name: str, spec: MachineSpec) -> Machine:
    """A machine of the driver `name`, not booted yet. Raises SpecError when there is no such driver."""
    if name not in DRIVERS:
        raise SpecError(f"there is no hypervisor {name!r}", hint=f"choose one of: {', '.join(names())}")
    module, _, attribute = DRIVERS[name].partition(":")
    return cast("Machine", getattr(importlib.import_module(module), attribute)(spec))

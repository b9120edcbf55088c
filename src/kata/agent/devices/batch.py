"""All devices of one container: check the messages, run the handlers, then change the specification once.

Called by CreateContainer. Until the last handler has returned nobody touches the specification: half done it
would hold host and guest numbers, and nothing in it could tell which is which.
"""

from __future__ import annotations

from typing import NamedTuple

from kata.agent.devices.errors import InvalidDevice
from kata.agent.devices.registry import HANDLERS
from kata.agent.updates import apply_updates, merge_pci

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from kata.agent.devices.context import DeviceContext
    from kata.agent.updates import SpecUpdate
    from kata.oci.spec import Spec
    from kata.protocol.generated import agent_pb2


class Adapted(NamedTuple):
    """A specification with the guest's devices, and the PCI addresses by which to translate later execs."""

    spec: Spec
    pci: dict[str, str]


def add_devices(devices: Iterable[agent_pb2.Device], spec: Spec, context: DeviceContext) -> Spec:
    """`adapt_devices` for who runs no exec later."""
    return adapt_devices(devices, spec, context).spec


def adapt_devices(devices: Iterable[agent_pb2.Device], spec: Spec, context: DeviceContext) -> Adapted:
    """Wait for all devices, those of CDI last, then the spec as it is in the guest. `spec` stays as it was.

    Raises InvalidDevice, DeviceError (time-outs among them) and UpdateError.
    """
    updates = collect_updates(devices, context)
    if context.cdi is not None:
        from kata.agent.devices.cdi import cdi_updates  # few containers want it

        updates += cdi_updates(spec, context.cdi)
    return Adapted(apply_updates(spec, updates), merge_pci(updates))


def collect_updates(devices: Iterable[agent_pb2.Device], context: DeviceContext) -> list[SpecUpdate]:
    """What the handlers found out, one update a device. All messages are checked before any is waited for."""
    messages = list(devices)
    for device in messages:
        if context.log:
            context.log.info("device", **_fields(device))
        validate(device)
    return [HANDLERS[device.type](device, context) for device in messages]


def validate(device: agent_pb2.Device) -> None:
    """Raises InvalidDevice when the message can never work."""
    if not device.type:
        raise InvalidDevice(f"invalid type for device {_fields(device)}")
    if not device.id and not device.vm_path:
        raise InvalidDevice(f"invalid ID and VM path for device {_fields(device)}")
    if not device.container_path:
        raise InvalidDevice(f"invalid container path for device {_fields(device)}")
    if device.type not in HANDLERS:
        raise InvalidDevice(
            f"Unknown device type {device.type}", hint=f"This agent knows {', '.join(sorted(HANDLERS))}."
        )


def _fields(device: agent_pb2.Device) -> dict[str, object]:
    return {
        "id": device.id,
        "type": device.type,
        "vm_path": device.vm_path,
        "container_path": device.container_path,
        "options": list(device.options),
    }

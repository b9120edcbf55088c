"""Joins an endpoint to a VM: the result is descriptors for the VMM, and everything is undone by closing it.

Called by the sandbox, once for each endpoint. What a killed runtime leaves behind is `cleanup`'s business.
"""

from __future__ import annotations

import errno
from contextlib import ExitStack
from typing import TYPE_CHECKING

import msgspec

from kata.linux.tuntap import Queues
from kata.network import models
from kata.network.endpoint import MODELLED, Endpoint
from kata.network.errors import AttachError, ModelError
from kata.network.place import Place

if TYPE_CHECKING:
    from typing import Self

MAX_QUEUES = 256
"""MAX_TAP_QUEUES of the kernel (drivers/net/tun.c)."""


class Settings(msgspec.Struct, frozen=True):
    """How endpoints are joined.

    `model` is tcfilter, macvtap or none. `queues` is the number of queues of the guest's NIC, its vCPUs as a rule.
    `rx_rate` and `tx_rate` are limits in bits a second, as the guest sees it; 0 is none.
    """

    model: str = "tcfilter"
    queues: int = 1
    rx_rate: int = 0
    tx_rate: int = 0


class Attachment:
    """An endpoint that is joined. Context manager; `close` undoes it in reverse.

    `endpoint` is the interface as the guest shall have it: its `mac` is that of the guest's NIC.
    """

    def __init__(self, endpoint: Endpoint, queues: Queues, stack: ExitStack) -> None:
        self.endpoint = endpoint
        self._queues = queues
        self._stack = stack

    @property
    def fds(self) -> tuple[int, ...]:
        """Descriptors of the tap for the VMM, one a queue, with virtio-net headers.

        None for the model `none`, and for physical endpoints: the guest gets the PCI device `endpoint.pci_address`,
        which is bound to vfio-pci by now.
        """
        return self._queues.fds

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def hand_over(self) -> None:
        """Close our copies of `fds`, once the VMM has its own: from then on the tap lives as long as the VMM."""
        self._queues.close()

    def close(self) -> None:
        """Undo everything, whoever has descriptors. What is gone already counts as undone. Idempotent.

        Raises AttachError when the kernel refuses, after having tried all.
        """
        try:
            self._stack.close()
        except OSError as error:
            raise AttachError(f"the interface {self.endpoint.name!r} could not be freed: {error.strerror}") from error


def attach(netns_path: str, endpoint: Endpoint, settings: Settings) -> Attachment:
    """Join `endpoint`, which `scan` found in this namespace, to a VM. The caller closes the result.

    Raises ModelError, NamespaceError, AttachError; then nothing has changed.
    """
    _check(settings)
    with ExitStack() as stack:
        place = stack.enter_context(Place(netns_path))
        try:
            joined = _way(endpoint, settings)(place, endpoint, settings, stack)
        except OSError as error:
            raise _explain(endpoint, error) from error
        return Attachment(joined.endpoint, joined.queues, stack.pop_all())


def _way(endpoint: Endpoint, settings: Settings) -> models.Model:
    if endpoint.kind in MODELLED:
        return models.find(settings.model)
    from kata.network import direct  # few pods have one that is a tap or a device already

    return direct.find(endpoint.kind)


def _check(settings: Settings) -> None:
    if not 1 <= settings.queues <= MAX_QUEUES:
        raise ModelError(f"a NIC cannot have {settings.queues} queues", hint=f"1 to {MAX_QUEUES} are possible")
    for rate in (settings.rx_rate, settings.tx_rate):
        if rate < 0 or 0 < rate < 8:
            raise ModelError(f"{rate} bit/s is no rate limit", hint="use 0 for no limit")
    models.find(settings.model)


def _explain(endpoint: Endpoint, error: OSError) -> AttachError:
    hint = ""
    if error.errno in (errno.EBUSY, errno.EEXIST):
        hint = "another sandbox may be using this network namespace"
    return AttachError(f"the interface {endpoint.name!r} cannot be joined to the VM: {error.strerror}", hint=hint)

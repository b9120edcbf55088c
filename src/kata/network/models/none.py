"""The model `none`: the interface is left alone and the guest has no NIC for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kata.linux.tuntap import Queues
from kata.network.models import Joined

if TYPE_CHECKING:
    from contextlib import ExitStack

    from kata.network.attachment import Settings
    from kata.network.endpoint import Endpoint
    from kata.network.place import Place


def attach(_place: Place, endpoint: Endpoint, _settings: Settings, _stack: ExitStack) -> Joined:
    """Nothing is joined."""
    return Joined(endpoint, Queues())

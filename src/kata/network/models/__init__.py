"""The ways in which an interface of a pod can reach a guest. A new one is a file here and one line below.

A model is a function: it joins an endpoint in an open namespace to a tap, pushes every undoing on the stack that
it is given, and returns what the VMM needs. It raises OSError; `attachment` makes a sentence of it.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, NamedTuple, cast

from kata.linux.rtnetlink import format_mac
from kata.linux.tuntap import Queues
from kata.network.endpoint import Endpoint
from kata.network.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack
    from typing import TypeAlias

    from kata.network.attachment import Settings
    from kata.network.place import Place

    Model: TypeAlias = Callable[[Place, Endpoint, Settings, ExitStack], "Joined"]

MODELS = {
    "tcfilter": "kata.network.models.tcfilter",
    "macvtap": "kata.network.models.macvtap",
    "none": "kata.network.models.none",
}


class Joined(NamedTuple):
    """What came of it: the endpoint as the guest shall have it, and the descriptors of its tap."""

    endpoint: Endpoint
    queues: Queues


def random_mac() -> str:
    """A MAC address that is nobody else's: locally administered, unicast (IEEE 802)."""
    return format_mac(bytes((0x02, *os.urandom(5))))


def find(name: str) -> Model:
    """The model of this name. Raises ModelError."""
    if name not in MODELS:
        raise ModelError(f"there is no network model {name!r}", hint=f"choose one of: {', '.join(MODELS)}")
    return cast("Model", importlib.import_module(MODELS[name]).attach)

"""Endpoints that are taps already, or PCI devices: joined as they are, whatever the model.

They stay when the sandbox goes: whoever made them removes them.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import msgspec

from kata.linux.netlink import NetlinkError, unpack_attributes
from kata.linux.rtnetlink import IFF_ALLMULTI
from kata.linux.tuntap import IFLA_TUN_MULTI_QUEUE, Queues, open_macvtap, open_tap
from kata.network.limits import limit_arriving, limit_leaving
from kata.network.models import Joined, random_mac
from kata.network.place import undo
from kata.network.vfio import bound_to_vfio

if TYPE_CHECKING:
    from contextlib import ExitStack

    from kata.network.attachment import Settings
    from kata.network.endpoint import Endpoint
    from kata.network.models import Model
    from kata.network.place import Place


def find(kind: str) -> Model:
    """How an endpoint of this kind is joined. KeyError for one that needs a model."""
    return {"tap": attach_tap, "macvtap": attach_macvtap, "physical": attach_physical}[kind]


def attach_tap(place: Place, endpoint: Endpoint, settings: Settings, stack: ExitStack) -> Joined:
    """A tap that is there. The guest is the other end of its link and so gets another MAC address.

    It has as many queues as it was made for: several, or one. Raises OSError; EBUSY when somebody uses it.
    """
    link = next((link for link in place.netlink.list_links() if link.ifindex == endpoint.index), None)
    if link is None:
        raise NetlinkError(errno.ENODEV, f"{endpoint.name} is gone")
    multi_queue = unpack_attributes(link.info).get(IFLA_TUN_MULTI_QUEUE) == b"\1"
    queues = settings.queues if multi_queue else 1
    opened = open_tap(place.namespace, endpoint.name, queues, create=False, multi_queue=multi_queue)
    stack.callback(opened.close)
    limit_leaving(place, endpoint.index, settings.rx_rate, stack)
    limit_arriving(place, endpoint.index, settings.tx_rate, stack)
    return Joined(msgspec.structs.replace(endpoint, mac=random_mac()), opened)


def attach_macvtap(place: Place, endpoint: Endpoint, settings: Settings, stack: ExitStack) -> Joined:
    """A macvtap that is there. Raises OSError; what arrives cannot be limited, since that is done below it."""
    if settings.rx_rate:
        raise NetlinkError(errno.EOPNOTSUPP, "what arrives at a macvtap cannot be limited")
    opened = open_macvtap(place.namespace, endpoint.name, endpoint.index, settings.queues)
    stack.callback(opened.close)
    undo(stack, place.netlink.set_flags, endpoint.index, endpoint.flags & IFF_ALLMULTI, IFF_ALLMULTI)
    place.netlink.set_flags(endpoint.index, IFF_ALLMULTI, IFF_ALLMULTI)  # for IPv6, as in the model macvtap
    limit_leaving(place, endpoint.index, settings.tx_rate, stack)
    return Joined(endpoint, opened)


def attach_physical(_place: Place, endpoint: Endpoint, _settings: Settings, stack: ExitStack) -> Joined:
    """A PCI device: its driver is exchanged for vfio-pci. The interface is gone until it is given back."""
    stack.enter_context(bound_to_vfio(endpoint.pci_address))
    return Joined(endpoint, Queues())

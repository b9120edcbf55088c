"""The model `tcfilter`: a tap, and traffic control that passes every frame between it and the pod's interface.

Frames are taken before the host's IP stack sees them, so the interface may keep its addresses: the guest has the
same ones, and the same MAC address. Works above any Ethernet-like interface, ipvlan too.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from kata.linux.netlink import NetlinkError
from kata.linux.tuntap import open_tap
from kata.network.limits import limit_leaving
from kata.network.models import Joined
from kata.network.names import tap_name
from kata.network.place import remove_own_link
from kata.network.redirect import redirect

if TYPE_CHECKING:
    from contextlib import ExitStack

    from kata.network.attachment import Settings
    from kata.network.endpoint import Endpoint
    from kata.network.place import Place


def attach(place: Place, endpoint: Endpoint, settings: Settings, stack: ExitStack) -> Joined:
    """A new tap that is joined to the endpoint's interface in both directions. Raises OSError."""
    name = tap_name(endpoint.index)
    netlink = place.netlink
    queues = open_tap(place.namespace, name, settings.queues)
    stack.callback(remove_own_link, netlink, name)  # the VMM may still hold it
    stack.callback(queues.close)
    tap = netlink.find_link(name)
    if tap is None:
        raise NetlinkError(errno.ENODEV, f"{name} is gone as soon as it was made")
    netlink.set_mtu(tap.ifindex, endpoint.mtu)
    netlink.disable_link_local(tap.ifindex)
    netlink.set_up(tap.ifindex)
    limit_leaving(place, tap.ifindex, settings.rx_rate, stack)
    limit_leaving(place, endpoint.index, settings.tx_rate, stack)
    redirect(place, endpoint.index, tap.ifindex, stack)
    redirect(place, tap.ifindex, endpoint.index, stack)
    return Joined(endpoint, queues)

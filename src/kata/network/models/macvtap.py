"""The model `macvtap`: a macvtap in bridge mode above the pod's interface.

The guest gets the interface's MAC address, and the interface a new one. It keeps its addresses, so that whoever
made it finds them when it takes it down; but the host must not answer for them, so it is told not to use ARP
(IFF_NOARP), after which it does not answer ARP and its IPv6 neighbour advertisements reach nobody.

ipvlan and macvlan interfaces share or filter MAC addresses, so a second one above them would hear nothing: those
are joined by `tcfilter`.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from kata.linux.netlink import NetlinkError
from kata.linux.rtnetlink import IFF_ALLMULTI, IFF_NOARP, IFF_UP
from kata.linux.tuntap import open_macvtap
from kata.network.limits import limit_arriving, limit_leaving
from kata.network.models import Joined, random_mac, tcfilter
from kata.network.names import tap_name
from kata.network.place import remove_own_link, undo

if TYPE_CHECKING:
    from contextlib import ExitStack

    from kata.network.attachment import Settings
    from kata.network.endpoint import Endpoint
    from kata.network.place import Place


def attach(place: Place, endpoint: Endpoint, settings: Settings, stack: ExitStack) -> Joined:
    """A new macvtap above the endpoint's interface. Raises OSError."""
    if endpoint.kind in ("macvlan", "ipvlan"):
        return tcfilter.attach(place, endpoint, settings, stack)
    netlink, name = place.netlink, tap_name(endpoint.index)
    netlink.add_macvtap(name, endpoint.index, endpoint.mac, endpoint.mtu, settings.queues)
    undo(stack, netlink.set_flags, endpoint.index, endpoint.flags & IFF_NOARP, IFF_NOARP)
    undo(stack, netlink.set_mac, endpoint.index, endpoint.mac)
    stack.callback(remove_own_link, netlink, name)
    tap = netlink.find_link(name)
    if tap is None:
        raise NetlinkError(errno.ENODEV, f"{name} is gone as soon as it was made")
    netlink.set_flags(endpoint.index, IFF_NOARP, IFF_NOARP)
    netlink.set_mac(endpoint.index, random_mac())
    queues = open_macvtap(place.namespace, name, tap.ifindex, settings.queues)
    stack.callback(queues.close)
    netlink.disable_link_local(tap.ifindex)
    # Nobody tells the host which multicast groups the guest is in, and IPv6 does not work without: let all pass.
    netlink.set_flags(tap.ifindex, IFF_UP | IFF_ALLMULTI, IFF_UP | IFF_ALLMULTI)
    limit_leaving(place, tap.ifindex, settings.tx_rate, stack)
    limit_arriving(place, endpoint.index, settings.rx_rate, stack)
    return Joined(endpoint, queues)

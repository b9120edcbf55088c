"""Links, addresses, routes and neighbours of a network namespace, by rtnetlink(7).

Called by the agent's interfaces and by the host's network. Values in, values out: no cache, no policy, and
addresses as text. `host` adds what the guest never does: making links, traffic control. Never read the
configuration of anything here, and import nothing that only the host needs.
"""

from __future__ import annotations

from kata.linux.rtnetlink.addresses import Address, Addresses
from kata.linux.rtnetlink.base import NAME_LIMIT, format_ip, format_mac, parse_ip, parse_mac
from kata.linux.rtnetlink.links import IFF_ALLMULTI, IFF_LOOPBACK, IFF_LOWER_UP, IFF_NOARP, IFF_UP, Link, Links
from kata.linux.rtnetlink.neighbours import NUD_PERMANENT, NUD_REACHABLE, Neighbour, Neighbours
from kata.linux.rtnetlink.routes import (
    RT_TABLE_MAIN,
    RTN_UNICAST,
    RTNH_F_ONLINK,
    RTPROT_BOOT,
    RTPROT_KERNEL,
    Route,
    Routes,
)

__all__ = [
    "IFF_ALLMULTI",
    "IFF_LOOPBACK",
    "IFF_LOWER_UP",
    "IFF_NOARP",
    "IFF_UP",
    "NAME_LIMIT",
    "NUD_PERMANENT",
    "NUD_REACHABLE",
    "RTNH_F_ONLINK",
    "RTN_UNICAST",
    "RTPROT_BOOT",
    "RTPROT_KERNEL",
    "RT_TABLE_MAIN",
    "Address",
    "Link",
    "Neighbour",
    "Route",
    "Rtnetlink",
    "format_ip",
    "format_mac",
    "parse_ip",
    "parse_mac",
]


class Rtnetlink(Links, Addresses, Routes, Neighbours):
    """rtnetlink of the current network namespace. Context manager; for one thread.

    Every method raises NetlinkError (an OSError) with the kernel's errno, ValueError for arguments that make no
    sense, TimeoutError when the kernel does not answer.
    """

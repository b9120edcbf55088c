"""Finds the endpoints of a pod's network namespace, as they are now, by netlink.

Skipped: loopback, links of ours, and links without any address. The last rule leaves out what kernels put into
every new namespace (`sit0`, `tunl0`, `ip6tnl0`, `gre0`, …) and what an engine has not set up yet. PCI devices need
no address to be endpoints: the guest's driver may serve something else than IP. Anything that is left and cannot
be given to a guest is an error that names it, since a pod that lacks an interface is worse than one that fails.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kata.linux.ethtool import bus_info
from kata.linux.rtnetlink import (
    IFF_LOOPBACK,
    NUD_PERMANENT,
    NUD_REACHABLE,
    RTN_UNICAST,
    RTPROT_KERNEL,
    Address,
    Link,
    Neighbour,
    Route,
)
from kata.network.endpoint import Endpoint, endpoint_kind
from kata.network.errors import NetworkError
from kata.network.names import is_ours
from kata.network.place import Place

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable, Sequence


def scan(netns_path: str) -> tuple[Endpoint, ...]:
    """The endpoints of the namespace, by index. Nothing is changed; call it before anything is attached.

    Raises NamespaceError, UnsupportedInterfaceError, NetworkError when the kernel refuses.
    """
    with Place(netns_path) as place:
        return scan_place(place)


def scan_place(place: Place) -> tuple[Endpoint, ...]:
    """As `scan`, of a namespace that is open already."""
    netlink = place.netlink
    try:
        with place.control_socket() as control:
            links, addresses = netlink.list_links(), netlink.list_addresses()
            routes, neighbours = netlink.list_routes(), netlink.list_neighbours()
            wanted = [route for route in routes if route.protocol != RTPROT_KERNEL and route.type == RTN_UNICAST]
            found = (
                _endpoint(link, bus, addresses, wanted, neighbours)
                for link, bus in _candidates(links, addresses, control)
            )
            return tuple(found)
    except OSError as error:
        raise NetworkError(f"the network of {place.path} cannot be read: {error.strerror}") from error


def _candidates(
    links: Iterable[Link], addresses: Iterable[Address], control: socket.socket
) -> Iterable[tuple[Link, str]]:
    """The links that may be endpoints, with where their devices sit."""
    configured = {address.ifindex for address in addresses}
    for link in links:
        if link.flags & IFF_LOOPBACK or is_ours(link):
            continue
        bus = "" if link.kind else bus_info(control, link.name)
        if link.ifindex in configured or (bus and endpoint_kind(link, bus)[0] == "physical"):
            yield link, bus


def _endpoint(
    link: Link, bus: str, addresses: Sequence[Address], routes: Sequence[Route], neighbours: Sequence[Neighbour]
) -> Endpoint:
    kind, pci_address = endpoint_kind(link, bus)
    gateways = {route.gateway for route in routes if not route.destination}
    return Endpoint(
        name=link.name,
        index=link.ifindex,
        mac=link.mac,
        mtu=link.mtu,
        kind=kind,
        flags=link.flags,
        addresses=tuple(address for address in addresses if address.ifindex == link.ifindex),
        routes=tuple(route for route in routes if route.ifindex == link.ifindex),
        neighbours=tuple(
            entry for entry in neighbours if entry.ifindex == link.ifindex and _is_wanted(entry, gateways)
        ),
        pci_address=pci_address,
    )


def _is_wanted(neighbour: Neighbour, gateways: set[str]) -> bool:
    """What was put there on purpose; and the way out, which the guest then need not ask for."""
    if not neighbour.mac:
        return False
    if neighbour.state & NUD_PERMANENT:
        return True
    return bool(neighbour.state & NUD_REACHABLE) and neighbour.address in gateways

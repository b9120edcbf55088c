"""The guest's network as the host describes it: interfaces, routes and neighbours.

Called by the service for UpdateInterface, UpdateRoutes, ListInterfaces, ListRoutes and AddARPNeighbors. The host's
messages come in, the kernel's state goes out; nothing is remembered. Never run a program here: the guest has none.

Where this differs from upstream on purpose: a listed route keeps its destination when it has a gateway (upstream
shows all of those as default routes), and the IPv6 default route is "::", not "::1".
"""

from __future__ import annotations

import errno
import os
import socket

from kata.agent.errors import AgentError, BadRequest
from kata.linux.fds import read_text
from kata.linux.netlink import NetlinkError
from kata.linux.rtnetlink import (
    IFF_NOARP,
    NAME_LIMIT,
    NUD_PERMANENT,
    Address,
    Link,
    Neighbour,
    Route,
    Rtnetlink,
    format_mac,
    parse_mac,
)
from kata.protocol.generated import types_pb2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from kata.agent.devices.hotplug import Hotplug

_FAMILIES = {0: socket.AF_INET, 1: socket.AF_INET6}
_V6_DISABLED = "/proc/sys/net/ipv6/conf/all/disable_ipv6"
_DEFAULTS: dict[int, str] = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}  # noqa: S104 - a route's destination, nothing binds


class InterfaceError(AgentError):
    """The kernel refused a part of the network's configuration; the text holds what it said."""


class InvalidNetwork(BadRequest):
    """An interface, route or neighbour that makes no sense, or names an interface that is not there."""


def update_interface(interface: types_pb2.Interface, hotplug: Hotplug) -> types_pb2.Interface:
    """Make an interface as described, and up; the message itself is the answer, as upstream's.

    With a PCI path it is what comes there, which is waited for: another may have the same address. Else it is found by
    its hardware address, or by its name (and then gets the address).

    Raises InvalidNetwork, InterfaceError, DeviceTimeout.
    """
    device = hotplug.find_pci_network(interface.devicePath) if interface.devicePath else ""
    addresses = [_read_address(entry) for entry in interface.IPAddresses]
    try:
        with Rtnetlink() as netlink:
            link = _find(netlink, interface, device)
            netlink.set_down(link.ifindex)
            if interface.hwAddr and link.mac != format_mac(parse_mac(interface.hwAddr)):
                netlink.set_mac(link.ifindex, interface.hwAddr)
            _readdress(netlink, link, addresses)
            if interface.name and interface.name != link.name:
                _rename(netlink, link, interface.name)
            if interface.mtu and interface.mtu != link.mtu:
                netlink.set_mtu(link.ifindex, interface.mtu)
            if interface.raw_flags & IFF_NOARP:
                netlink.set_flags(link.ifindex, IFF_NOARP, IFF_NOARP)
            netlink.set_up(link.ifindex)
    except (NetlinkError, TimeoutError, ValueError) as error:
        raise _explain(error, f"cannot update interface {interface.name or interface.hwAddr}") from error
    return interface


def update_routes(routes: Iterable[types_pb2.Route]) -> list[types_pb2.Route]:
    """Put routes into the main table, those without gateway first; what the table holds then.

    Other routes stay. Raises InvalidNetwork, InterfaceError.
    """
    try:
        with Rtnetlink() as netlink:
            indexes = {link.name: link.ifindex for link in netlink.list_links()}
            wanted = [_read_route(route, indexes) for route in routes]
            for route in sorted(wanted, key=lambda route: bool(route.gateway)):  # a gateway has to be reachable
                _replace_route(netlink, route)
    except (NetlinkError, TimeoutError, ValueError) as error:
        raise _explain(error, "cannot update routes") from error
    return list_routes()


def list_interfaces() -> list[types_pb2.Interface]:
    """All interfaces with their addresses. Raises InterfaceError."""
    try:
        with Rtnetlink() as netlink:
            links, addresses = netlink.list_links(), netlink.list_addresses()
    except (NetlinkError, TimeoutError) as error:
        raise _explain(error, "cannot list interfaces") from error
    return [_write_interface(link, [entry for entry in addresses if entry.ifindex == link.ifindex]) for link in links]


def list_routes() -> list[types_pb2.Route]:
    """The main table's routes, without those that have neither destination nor gateway. Raises InterfaceError."""
    try:
        with Rtnetlink() as netlink:
            names = {link.ifindex: link.name for link in netlink.list_links()}
            routes = netlink.list_routes()
    except (NetlinkError, TimeoutError) as error:
        raise _explain(error, "cannot list routes") from error
    return [_write_route(route, names) for route in routes if route.destination or route.gateway]


def add_neighbours(neighbours: Iterable[types_pb2.ARPNeighbor]) -> None:
    """Tell the kernel hardware addresses; state 0 is permanent. Raises InvalidNetwork, InterfaceError."""
    try:
        with Rtnetlink() as netlink:
            indexes = {link.name: link.ifindex for link in netlink.list_links()}
            for neighbour in [_read_neighbour(entry, indexes) for entry in neighbours]:
                netlink.add_neighbour(neighbour)
    except (NetlinkError, TimeoutError, ValueError) as error:
        raise _explain(error, "cannot add neighbours") from error


def _find(netlink: Rtnetlink, interface: types_pb2.Interface, device: str) -> Link:
    link = netlink.find_link(device) if device else None
    if link is None and interface.hwAddr:
        link = netlink.find_link_by_mac(interface.hwAddr)
    link = link or netlink.find_link(interface.name) or netlink.find_link(interface.device)
    if link is None:
        raise InvalidNetwork(f"no interface has address {interface.hwAddr!r} or name {interface.name!r}")
    return link


def _readdress(netlink: Rtnetlink, link: Link, addresses: Iterable[Address]) -> None:
    netlink.flush_addresses(link.ifindex)
    for address in addresses:
        if address.family == socket.AF_INET6 and not _has_ipv6():
            continue
        netlink.add_address(address._replace(ifindex=link.ifindex))


def _has_ipv6() -> bool:
    try:
        return read_text(_V6_DISABLED).strip() == "0"
    except OSError:
        return False


def _rename(netlink: Rtnetlink, link: Link, name: str) -> None:
    """Name `link`; an interface that has the name gets the old one of `link` instead."""
    other = netlink.find_link(name)
    if other is None:
        netlink.set_name(link.ifindex, name)
        return
    was_up = other.flags & 1
    netlink.set_down(other.ifindex)
    netlink.set_name(other.ifindex, _spare_name(other.ifindex))
    netlink.set_name(link.ifindex, name)
    netlink.set_name(other.ifindex, link.name)
    if was_up:
        netlink.set_up(other.ifindex)


def _spare_name(index: int) -> str:
    return f"kata-{index}-{os.urandom(3).hex()}"[:NAME_LIMIT]


def _replace_route(netlink: Rtnetlink, route: Route) -> None:
    try:
        netlink.replace_route(route)
    except NetlinkError as error:
        if error.errno != errno.EEXIST:
            raise


def _read_address(entry: types_pb2.IPAddress) -> Address:
    """Without the interface. The mask is a prefix length."""
    if not entry.mask.isascii() or not entry.mask.isdecimal():
        raise InvalidNetwork(f"{entry.mask!r} is no prefix length for {entry.address}")
    return Address(0, _FAMILIES[entry.family], entry.address, int(entry.mask))


def _read_route(entry: types_pb2.Route, indexes: dict[str, int]) -> Route:
    family = _FAMILIES[entry.family]
    destination, prefix = _read_destination(entry.dest, family)
    return Route(
        family,
        destination,
        prefix,
        _bare(entry.gateway),
        _index(entry.device, indexes) if entry.device else 0,
        _bare(entry.source),
        entry.scope,
        entry.flags,
        entry.mtu,
    )


def _read_destination(text: str, family: int) -> tuple[str, int]:
    """Address and prefix length; nothing for a default route."""
    address, found, prefix = text.partition("/")
    bits = 32 if family == socket.AF_INET else 128
    if not found:
        prefix = "0" if address in ("", "default", _DEFAULTS[family]) else str(bits)
    if not prefix.isascii() or not prefix.isdecimal():
        raise InvalidNetwork(f"{text!r} is no route's destination")
    return ("", 0) if int(prefix) == 0 else (address, int(prefix))


def _bare(text: str) -> str:
    """The address without a prefix length, which some runtimes append."""
    return text.partition("/")[0]


def _read_neighbour(entry: types_pb2.ARPNeighbor, indexes: dict[str, int]) -> Neighbour:
    target = entry.toIPAddress
    return Neighbour(
        _index(entry.device, indexes),
        _FAMILIES[target.family],
        _bare(target.address),
        entry.lladdr,
        entry.state or NUD_PERMANENT,
        entry.flags,
    )


def _index(name: str, indexes: dict[str, int]) -> int:
    if name not in indexes:
        raise InvalidNetwork(f"there is no interface {name!r}")
    return indexes[name]


def _write_interface(link: Link, addresses: Iterable[Address]) -> types_pb2.Interface:
    return types_pb2.Interface(
        device=link.name,
        name=link.name,
        mtu=link.mtu,
        hwAddr=link.mac,
        type=link.kind,
        raw_flags=link.flags & IFF_NOARP,
        IPAddresses=[
            types_pb2.IPAddress(family=_family(entry.family), address=entry.address, mask=str(entry.prefix))
            for entry in addresses
        ],
    )


def _write_route(route: Route, names: dict[int, str]) -> types_pb2.Route:
    destination = f"{route.destination}/{route.prefix}" if route.destination else _DEFAULTS[route.family]
    return types_pb2.Route(
        dest=destination,
        gateway=route.gateway,
        device=names.get(route.ifindex, ""),
        source=route.source,
        scope=route.scope,
        family=_family(route.family),
        flags=route.flags,
        mtu=route.mtu,
    )


def _family(family: int) -> types_pb2.IPFamily.ValueType:
    return types_pb2.IPFamily.v6 if family == socket.AF_INET6 else types_pb2.IPFamily.v4


def _explain(error: OSError | ValueError, what: str) -> AgentError:
    if isinstance(error, OSError):
        return InterfaceError(f"{what}: {error.strerror}")
    return InvalidNetwork(f"{what}: {error}")

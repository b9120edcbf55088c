"""What an interface of a pod is: an `Endpoint`, and which kinds of interface can be one. The door of this room.

`scan` finds endpoints, `attach` joins one to a VM, `to_guest` describes it to the agent. An endpoint is pure data
and says how the interface was before anything was attached to it.
"""

from __future__ import annotations

import msgspec

from kata.linux import pci
from kata.linux.netlink import unpack_attributes
from kata.linux.rtnetlink import Address, Link, Neighbour, Route
from kata.linux.tuntap import IFLA_TUN_TYPE
from kata.network.errors import UnsupportedInterfaceError

MODELLED = frozenset({"veth", "macvlan", "ipvlan", "device"})
"""Kinds that reach a guest by one of the models."""

_TAP = b"\2"
_KINDS = {"veth": "veth", "macvlan": "macvlan", "ipvlan": "ipvlan", "macvtap": "macvtap"}


class Endpoint(msgspec.Struct, frozen=True):
    """An interface of the pod's namespace.

    `kind` is veth, macvlan, ipvlan, device (one without a kind that is no PCI device, such as a scalable function),
    tap, macvtap or physical. `mtu` is in bytes; `flags` are the kernel's (IFF_NOARP, …). `addresses` has all, with
    link-local ones; `routes` are those of the main table that go out of this interface, without the kernel's own;
    `neighbours` are the permanent ones and default gateways that are known. `pci_address` is for physical alone.
    """

    name: str
    index: int
    mac: str
    mtu: int
    kind: str
    flags: int
    addresses: tuple[Address, ...] = ()
    routes: tuple[Route, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    pci_address: str = ""


def endpoint_kind(link: Link, bus: str) -> tuple[str, str]:
    """The kind of endpoint that `link` is, and its PCI address; `bus` is where its driver says that it sits.

    Raises UnsupportedInterfaceError, naming the interface and what it is.
    """
    if link.kind in _KINDS:
        return _KINDS[link.kind], ""
    if link.kind == "tun":
        if unpack_attributes(link.info).get(IFLA_TUN_TYPE) == _TAP:
            return "tap", ""
        raise _unsupported(link, "tun (packets without Ethernet)")
    if link.kind:
        raise _unsupported(link, link.kind)
    try:
        return "physical", str(pci.parse_address(bus))
    except pci.PciError:
        return "device", ""


def _unsupported(link: Link, kind: str) -> UnsupportedInterfaceError:
    return UnsupportedInterfaceError(
        f"the interface {link.name!r} is of the kind {kind}, which a virtual machine cannot have",
        hint="use a network whose interfaces are veth, macvlan, ipvlan, macvtap, tap or PCI devices",
    )

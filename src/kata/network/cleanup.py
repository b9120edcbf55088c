"""Finds and removes what a killed runtime left in a pod's network namespace, when its sandbox is known to be dead.

Only what is ours, by name, cookie or handle, is touched. Taps have gone with their last descriptor as a rule; what
remains is the traffic control of the pod's interface, or a macvtap.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

from kata.linux.rtnetlink import IFF_LOWER_UP, IFF_NOARP
from kata.linux.tuntap import macvtap_device
from kata.network.errors import NamespaceError, NetworkError
from kata.network.names import COOKIE, LIMIT_HANDLE, is_ours
from kata.network.place import Place, undo
from kata.network.redirect import remove_redirects

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kata.linux.rtnetlink import Link
    from kata.linux.rtnetlink.host import HostNetlink


class Remains(NamedTuple):
    """What is ours in a namespace, in words.

    `in_use`: a process has one of the taps. `devices` are the numbers of those that may be open too, macvtaps.
    """

    found: tuple[str, ...] = ()
    in_use: bool = False
    devices: tuple[int, ...] = ()


def remains(netns_path: str) -> Remains:
    """What `cleanup` would remove; nothing in the host's own namespace. Raises NetworkError."""
    try:
        place = Place(netns_path)
    except NamespaceError:
        return Remains()
    with place:
        try:
            links = place.netlink.list_links()
            ours = [link for link in links if is_ours(link)]
            found = [f"the {link.kind if link.kind != 'tun' else 'tap'} {link.name}" for link in ours]
            for link in (link for link in links if link not in ours):
                found += [f"redirects of {link.name}"] if _redirects(place.netlink, link) else []
                found += [f"a rate limit of {link.name}"] if _is_limited(place.netlink, link) else []
            return Remains(
                tuple(found),
                any(link.kind == "tun" and link.flags & IFF_LOWER_UP for link in ours),
                tuple(macvtap_device(place.namespace, e.name, e.ifindex) for e in ours if e.kind == "macvtap"),
            )
        except OSError as error:
            raise NetworkError(f"{netns_path} cannot be looked at: {error.strerror}") from error


def cleanup(netns_path: str, pci_addresses: Iterable[str] = ()) -> None:
    """Bring the namespace's interfaces back to what they were. Idempotent; a namespace that is gone is clean.

    `pci_addresses` are those on record: devices that are in no namespace while a VM has them, and are given back to
    the host. Raises NamespaceError for the host's own namespace, NetworkError when the kernel refuses,
    after having tried all.
    """
    with ExitStack() as stack:
        stack.callback(_clean_namespace, netns_path)
        for address in pci_addresses:
            stack.callback(_give_back, address)


def _give_back(address: str) -> None:
    from kata.network.vfio import release  # few pods have such a device

    try:
        release(address)
    except (OSError, ValueError) as error:  # ValueError: no address of a PCI device
        what = getattr(error, "strerror", None) or str(error)
        raise NetworkError(f"the PCI device {address} could not be given back: {what}") from error


def _clean_namespace(netns_path: str) -> None:
    try:
        place = Place(netns_path)
    except NamespaceError:
        if _is_namespace(netns_path):
            raise
        return
    with place:
        try:
            with ExitStack() as stack:
                for link in place.netlink.list_links():
                    _clean(place.netlink, link, stack)
        except OSError as error:
            raise NetworkError(f"{netns_path} could not be cleaned up: {error.strerror}") from error


def _is_namespace(path: str) -> bool:
    """Whether something is mounted at `path`: what remains of a removed namespace is an empty file, or nothing."""
    try:
        return os.stat(path).st_dev != os.stat(os.path.dirname(path) or ".").st_dev
    except (OSError, ValueError):
        return False


def _clean(netlink: HostNetlink, link: Link, stack: ExitStack) -> None:
    if not is_ours(link):
        if _redirects(netlink, link):
            undo(stack, remove_redirects, netlink, link.ifindex)
        if _is_limited(netlink, link):
            undo(stack, netlink.remove_root, link.ifindex, LIMIT_HANDLE)
        return
    if link.kind == "macvtap":  # what is pushed first is done last
        undo(stack, netlink.set_flags, link.lower, 0, IFF_NOARP)
        undo(stack, netlink.set_mac, link.lower, link.mac)
    undo(stack, netlink.remove_link, link.ifindex)


def _redirects(netlink: HostNetlink, link: Link) -> bool:
    return any(entry.cookie == COOKIE for entry in netlink.list_filters(link.ifindex))


def _is_limited(netlink: HostNetlink, link: Link) -> bool:
    return any(qdisc.handle == LIMIT_HANDLE for qdisc in netlink.list_qdiscs(link.ifindex))

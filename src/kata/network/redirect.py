"""Sending everything that arrives at one link out of another, and finding and removing that again.

Called by the models, the limits and the clean-up.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from kata.linux.netlink import NetlinkError
from kata.linux.rtnetlink.host import HostNetlink
from kata.linux.rtnetlink.tc import gone
from kata.network.names import COOKIE
from kata.network.place import Place, undo

if TYPE_CHECKING:
    from contextlib import ExitStack


def redirect(place: Place, source: int, target: int, stack: ExitStack) -> None:
    """Redirect until `stack` is closed. An ingress qdisc that the link has already is used."""
    try:
        place.netlink.add_ingress(source)
    except NetlinkError as error:
        if error.errno != errno.EEXIST:
            raise
    undo(stack, remove_redirects, place.netlink, source)
    place.netlink.add_redirect(source, target, COOKIE)


def remove_redirects(netlink: HostNetlink, index: int) -> None:
    """Remove the filters of ours, and ingress when nothing else is in it. Raises NetlinkError when the link is gone."""
    ours = {entry.priority for entry in netlink.list_filters(index) if entry.cookie == COOKIE}
    for priority in ours:
        netlink.remove_filters(index, priority)
    if not netlink.list_filters(index):
        try:
            netlink.remove_ingress(index)
        except NetlinkError as error:
            if not gone(error):
                raise

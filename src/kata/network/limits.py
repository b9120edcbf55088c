"""Rate limits: a token bucket on the way out of a link. Called by the models.

What leaves a link can be limited there. What arrives at one has to leave another first: it makes a detour through
an ifb link, and then goes on as if it had just arrived.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from kata.linux.netlink import NetlinkError
from kata.network.names import LIMIT_HANDLE, ifb_name
from kata.network.place import Place, remove_own_link, undo
from kata.network.redirect import redirect

if TYPE_CHECKING:
    from contextlib import ExitStack


def limit_leaving(place: Place, index: int, rate: int, stack: ExitStack) -> None:
    """Let at most `rate` bits a second leave the link `index`; 0 is no limit."""
    if rate:
        place.netlink.limit_rate(index, rate, LIMIT_HANDLE)
        undo(stack, place.netlink.remove_root, index, LIMIT_HANDLE)


def limit_arriving(place: Place, index: int, rate: int, stack: ExitStack) -> None:
    """Let at most `rate` bits a second arrive at the link `index`; 0 is no limit."""
    if not rate:
        return
    netlink, name = place.netlink, ifb_name(index)
    netlink.add_ifb(name)
    stack.callback(remove_own_link, netlink, name)
    link = netlink.find_link(name)
    if link is None:
        raise NetlinkError(errno.ENODEV, f"{name} is gone as soon as it was made")
    netlink.disable_link_local(link.ifindex)
    netlink.set_up(link.ifindex)
    limit_leaving(place, link.ifindex, rate, stack)
    redirect(place, index, link.ifindex, stack)

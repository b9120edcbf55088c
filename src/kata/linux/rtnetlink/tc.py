"""Traffic control: queueing disciplines, and filters that redirect all packets. One part of `HostNetlink`.

u32 with a key that matches anything is used because every kernel with traffic control has it; matchall and flower
are missing from small ones. A filter of ours can carry a cookie, by which it is known again.
Source: tc(8), tc-u32(8), tc-mirred(8), tc-tbf(8); include/uapi/linux/{pkt_sched,pkt_cls,rtnetlink}.h.
"""

from __future__ import annotations

import errno
import socket
import struct
from typing import NamedTuple

from kata.linux.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NetlinkError,
    iterate_attributes,
    pack_attribute,
    pack_nested,
    pack_string,
    pack_u32,
    unpack_attributes,
)
from kata.linux.rtnetlink.base import Base, read_text, split

RTM_NEWQDISC, RTM_DELQDISC, RTM_GETQDISC = 36, 37, 38
RTM_NEWTFILTER, RTM_DELTFILTER, RTM_GETTFILTER = 44, 45, 46

TC_H_ROOT = 0xFFFFFFFF
TC_H_INGRESS = 0xFFFFFFF1
INGRESS_HANDLE = 0xFFFF0000
INGRESS_FILTERS = 0xFFFFFFF2
"""Where filters of arriving packets hang: right for `ingress` and for `clsact`."""

TCA_KIND, TCA_OPTIONS = 1, 2
TCA_U32_SEL, TCA_U32_ACT = 5, 7
TC_U32_TERMINAL = 1
TCA_ACT_KIND, TCA_ACT_OPTIONS, TCA_ACT_COOKIE = 1, 2, 6
TCA_MIRRED_PARMS = 2
TCA_EGRESS_REDIR = 1
TC_ACT_STOLEN = 4
TCA_TBF_PARMS, TCA_TBF_RATE64, TCA_TBF_BURST = 1, 4, 6
TC_LINKLAYER_ETHERNET = 1
ETH_P_ALL = 0x0003
COOKIE_LIMIT = 16

LATENCY = 0.05
"""Seconds that a packet may wait in a rate limit's queue before it is dropped."""
LEAST_BURST = 128 * 1024
"""Bytes a rate limit lets through at once: less would cut the largest offloaded packets (64 KiB) to pieces."""
_BURSTS_A_SECOND = 250  # at least what a timer tick (HZ=250) lets through

_TC = struct.Struct("=BxxxiIII")  # tcmsg: family, index, handle, parent, info
_SELECTOR = struct.Struct("=BBBxHHhhI")  # tc_u32_sel: flags, offset shift, keys, masks and offsets
_KEY = struct.Struct("=IIii")  # tc_u32_key: mask, value, offset, offset mask
_MIRRED = struct.Struct("=IIiiiiI")  # tc_mirred: index, capab, action, refcnt, bindcnt, eaction, ifindex
_RATE = struct.Struct("=BBHhHI")  # tc_ratespec: cell log, link layer, overhead, cell align, mpu, rate
_TBF = struct.Struct("=III")  # the end of tc_tbf_qopt: limit, buffer, mtu


class Qdisc(NamedTuple):
    """A queueing discipline of an interface: its kind, its handle and what it hangs on."""

    kind: str
    handle: int
    parent: int


class Filter(NamedTuple):
    """A filter of arriving packets. `cookie` is its first action's, empty where there is none."""

    kind: str
    priority: int
    cookie: bytes


class TrafficControl(Base):
    """Queueing disciplines and filters. Errors are those of `Rtnetlink`."""

    def list_qdiscs(self, index: int) -> list[Qdisc]:
        """The queueing disciplines of an interface."""
        replies = self._socket.dump(RTM_GETQDISC, _TC.pack(0, index, 0, 0, 0), what="list queueing disciplines")
        found = [split(_TC, reply.body) for reply in replies if reply.kind == RTM_NEWQDISC]
        return [
            Qdisc(read_text(attributes, TCA_KIND), handle, parent)
            for (_family, ifindex, handle, parent, _info), attributes in found
            if ifindex == index
        ]

    def add_ingress(self, index: int) -> None:
        """Let filters see arriving packets. Raises NetlinkError EEXIST when an interface has ingress or clsact."""
        body = _TC.pack(0, index, INGRESS_HANDLE, TC_H_INGRESS, 0) + pack_string(TCA_KIND, "ingress")
        self._socket.request(RTM_NEWQDISC, body, NLM_F_CREATE | NLM_F_EXCL, what=f"add ingress to interface {index}")

    def remove_ingress(self, index: int) -> None:
        """Remove `ingress` or `clsact` with all its filters."""
        body = _TC.pack(0, index, INGRESS_HANDLE, TC_H_INGRESS, 0)
        self._socket.request(RTM_DELQDISC, body, what=f"remove ingress of interface {index}")

    def add_redirect(self, index: int, target: int, cookie: bytes = b"") -> None:
        """Send all packets that arrive at an interface out of the interface `target`, before all other filters."""
        options = [pack_attribute(TCA_U32_SEL, _match_all()), pack_nested(TCA_U32_ACT, [_redirect(target, cookie)])]
        body = _TC.pack(0, index, 0, INGRESS_FILTERS, socket.htons(ETH_P_ALL))
        body += pack_string(TCA_KIND, "u32") + pack_nested(TCA_OPTIONS, options)
        what = f"redirect from interface {index} to interface {target}"
        self._socket.request(RTM_NEWTFILTER, body, NLM_F_CREATE | NLM_F_EXCL, what=what)

    def list_filters(self, index: int) -> list[Filter]:
        """The filters of arriving packets; none where there is no ingress."""
        body = _TC.pack(0, index, 0, INGRESS_FILTERS, 0)
        replies = self._socket.dump(RTM_GETTFILTER, body, what=f"list filters of interface {index}")
        return [read_filter(reply.body) for reply in replies if reply.kind == RTM_NEWTFILTER]

    def remove_filters(self, index: int, priority: int) -> None:
        """Remove all filters of arriving packets that have this priority."""
        body = _TC.pack(0, index, 0, INGRESS_FILTERS, priority << 16 | socket.htons(ETH_P_ALL))
        self._socket.request(RTM_DELTFILTER, body, what=f"remove filters of interface {index}")

    def limit_rate(self, index: int, rate: int, handle: int) -> None:
        """Let no more than `rate` bits a second leave an interface, by a token bucket that is its root.

        Raises NetlinkError EEXIST when the interface has a queueing discipline of somebody's already.
        """
        body = _TC.pack(0, index, handle, TC_H_ROOT, 0)
        body += pack_string(TCA_KIND, "tbf") + pack_nested(TCA_OPTIONS, _token_bucket(rate))
        what = f"limit interface {index} to {rate} bit/s"
        self._socket.request(RTM_NEWQDISC, body, NLM_F_CREATE | NLM_F_EXCL, what=what)

    def remove_root(self, index: int, handle: int) -> None:
        """Remove the queueing discipline that is an interface's root."""
        body = _TC.pack(0, index, handle, TC_H_ROOT, 0)
        self._socket.request(RTM_DELQDISC, body, what=f"remove the rate limit of interface {index}")


def read_filter(body: bytes) -> Filter:
    """A filter from the kernel's message. Raises NetlinkError."""
    (_family, _index, _handle, _parent, info), attributes = split(_TC, body)
    options = unpack_attributes(attributes.get(TCA_OPTIONS, b""))
    cookie = b""
    for _order, action in iterate_attributes(options.get(TCA_U32_ACT, b"")):
        cookie = cookie or unpack_attributes(action).get(TCA_ACT_COOKIE, b"")
    return Filter(read_text(attributes, TCA_KIND), info >> 16, cookie)


def _match_all() -> bytes:
    return _SELECTOR.pack(TC_U32_TERMINAL, 0, 1, 0, 0, 0, 0, 0) + _KEY.pack(0, 0, 0, 0)


def _redirect(target: int, cookie: bytes) -> bytes:
    if len(cookie) > COOKIE_LIMIT:
        raise ValueError(f"a filter's cookie of {len(cookie)} bytes is too long")
    parameters = _MIRRED.pack(0, 0, TC_ACT_STOLEN, 0, 0, TCA_EGRESS_REDIR, target)
    action = [
        pack_string(TCA_ACT_KIND, "mirred"),
        pack_nested(TCA_ACT_OPTIONS, [pack_attribute(TCA_MIRRED_PARMS, parameters)]),
    ]
    if cookie:
        action.append(pack_attribute(TCA_ACT_COOKIE, cookie))
    return pack_nested(1, action)  # the first and only action


def _token_bucket(rate: int) -> list[bytes]:
    """tbf's options. Raises ValueError for a rate below one byte a second."""
    octets = rate // 8
    if octets <= 0:
        raise ValueError(f"{rate} bit/s is no rate")
    burst = min(max(octets // _BURSTS_A_SECOND, LEAST_BURST), 0x7FFFFFFF)
    limit = min(int(octets * LATENCY) + burst, 0xFFFFFFFF)
    speed = _RATE.pack(0, TC_LINKLAYER_ETHERNET, 0, 0, 0, min(octets, 0xFFFFFFFF))
    options = [pack_attribute(TCA_TBF_PARMS, speed + bytes(_RATE.size) + _TBF.pack(limit, 0, 0))]
    if octets > 0xFFFFFFFF:
        options.append(pack_attribute(TCA_TBF_RATE64, struct.pack("=Q", octets)))
    return [*options, pack_u32(TCA_TBF_BURST, burst)]


def gone(error: NetlinkError) -> bool:
    """True when what should be removed is not there any more, or its interface is not."""
    return error.errno in (errno.ENODEV, errno.ENOENT, errno.EINVAL, errno.ENXIO)

"""Making and removing interfaces, for the host alone. One part of `HostNetlink`.

tap links come from /dev/net/tun instead (`kata.linux.tuntap`): they live as long as their descriptors.
Source: include/uapi/linux/if_link.h.
"""

from __future__ import annotations

import errno
import socket
import struct

from kata.linux.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NetlinkError,
    pack_attribute,
    pack_nested,
    pack_string,
    pack_u32,
)
from kata.linux.rtnetlink.base import check_name, parse_mac
from kata.linux.rtnetlink.links import (
    IFLA_ADDRESS,
    IFLA_IFNAME,
    IFLA_INFO_DATA,
    IFLA_INFO_KIND,
    IFLA_LINK,
    IFLA_LINKINFO,
    IFLA_MTU,
    LINK,
    RTM_DELLINK,
    RTM_NEWLINK,
    Links,
)

IFLA_AF_SPEC, IFLA_NUM_TX_QUEUES, IFLA_NUM_RX_QUEUES = 26, 31, 32
IFLA_INET6_ADDR_GEN_MODE = 8
IN6_ADDR_GEN_MODE_NONE = 1
IFLA_MACVLAN_MODE = 1
MACVLAN_MODE_BRIDGE = 4


class NewLinks(Links):
    """Making and removing interfaces."""

    def add_macvtap(self, name: str, lower: int, mac: str, mtu: int, queues: int = 1) -> None:
        """A macvtap in bridge mode above the interface `lower`. Raises NetlinkError EEXIST when the name is taken."""
        attributes = [
            pack_u32(IFLA_LINK, lower),
            pack_attribute(IFLA_ADDRESS, parse_mac(mac)),
            pack_u32(IFLA_MTU, mtu),
            pack_u32(IFLA_NUM_TX_QUEUES, queues),
            pack_u32(IFLA_NUM_RX_QUEUES, queues),
        ]
        self._add_link(name, "macvtap", attributes, [pack_u32(IFLA_MACVLAN_MODE, MACVLAN_MODE_BRIDGE)])

    def add_ifb(self, name: str) -> None:
        """An intermediate functional block: what is redirected to it passes its qdisc and goes back."""
        self._add_link(name, "ifb", [], [])

    def remove_link(self, index: int) -> None:
        """Remove an interface. Raises NetlinkError ENODEV when it is gone."""
        self._socket.request(RTM_DELLINK, LINK.pack(0, 0, index, 0, 0), what=f"remove interface {index}")

    def disable_link_local(self, index: int) -> None:
        """Give an interface no IPv6 address when it comes up; a kernel without IPv6 would not have done so anyway."""
        mode = pack_attribute(IFLA_INET6_ADDR_GEN_MODE, struct.pack("=B", IN6_ADDR_GEN_MODE_NONE))
        spec = pack_nested(IFLA_AF_SPEC, [pack_nested(socket.AF_INET6, [mode])])
        try:
            self._change_link(index, spec, f"disable IPv6 autoconfiguration of interface {index}")
        except NetlinkError as error:
            if error.errno not in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.EINVAL):
                raise

    def _add_link(self, name: str, kind: str, attributes: list[bytes], data: list[bytes]) -> None:
        info = [pack_string(IFLA_INFO_KIND, kind)]
        if data:
            info.append(pack_nested(IFLA_INFO_DATA, data))
        body = LINK.pack(0, 0, 0, 0, 0) + pack_string(IFLA_IFNAME, check_name(name)) + b"".join(attributes)
        body += pack_nested(IFLA_LINKINFO, info)
        self._socket.request(RTM_NEWLINK, body, NLM_F_CREATE | NLM_F_EXCL, what=f"make {kind} {name}")

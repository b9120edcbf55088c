"""Network interfaces: what there is, and what can be changed of them. One part of `Rtnetlink`.

Making interfaces is in `newlinks`: the guest never does.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from kata.linux.netlink import pack_attribute, pack_string, pack_u32, unpack_attributes
from kata.linux.rtnetlink.base import Base, check_name, format_mac, parse_mac, read_text, read_u32, split

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
IFF_UP = 0x1
IFF_LOOPBACK = 0x8
IFF_NOARP = 0x80
IFF_ALLMULTI = 0x200
IFF_LOWER_UP = 0x10000
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_LINKINFO = 1, 3, 4, 5, 18
IFLA_INFO_KIND, IFLA_INFO_DATA = 1, 2

LINK = struct.Struct("=BxHiII")
"""The kernel's struct ifinfomsg: family, type, index, flags, change."""


class Link(NamedTuple):
    """A network interface. `kind` is veth, tun, ... and empty for hardware; `mac` is empty where there is none.

    `lower` is the index of the interface that this one is stacked on or, for a veth, of its peer, which may be in
    another namespace; 0 is none. `info` is what is particular to the kind, as the kernel's attributes.
    """

    ifindex: int
    name: str
    mac: str
    mtu: int
    flags: int
    kind: str = ""
    lower: int = 0
    info: bytes = b""


class Links(Base):
    """Listing and changing interfaces."""

    def list_links(self) -> list[Link]:
        """All interfaces, by index."""
        replies = self._socket.dump(RTM_GETLINK, LINK.pack(0, 0, 0, 0, 0), what="list interfaces")
        return sorted(read_link(reply.body) for reply in replies if reply.kind == RTM_NEWLINK)

    def find_link(self, name: str) -> Link | None:
        """The interface of this name."""
        return next((link for link in self.list_links() if link.name == name), None)

    def find_link_by_mac(self, mac: str) -> Link | None:
        """The first interface with this hardware address."""
        wanted = format_mac(parse_mac(mac))
        return next((link for link in self.list_links() if link.mac == wanted), None)

    def set_flags(self, index: int, flags: int, mask: int) -> None:
        """Set the bits of `mask` to what `flags` has, e.g. IFF_UP."""
        self._change_link(index, b"", f"set the flags of interface {index}", flags, mask)

    def set_up(self, index: int) -> None:
        """Bring an interface up."""
        self.set_flags(index, IFF_UP, IFF_UP)

    def set_down(self, index: int) -> None:
        """Take an interface down."""
        self.set_flags(index, 0, IFF_UP)

    def set_mtu(self, index: int, mtu: int) -> None:
        """The largest packet, in bytes."""
        self._change_link(index, pack_u32(IFLA_MTU, mtu), f"set MTU {mtu} of interface {index}")

    def set_mac(self, index: int, mac: str) -> None:
        """The hardware address."""
        self._change_link(
            index, pack_attribute(IFLA_ADDRESS, parse_mac(mac)), f"set address {mac} of interface {index}"
        )

    def set_name(self, index: int, name: str) -> None:
        """The name; at most NAME_LIMIT bytes."""
        self._change_link(index, pack_string(IFLA_IFNAME, check_name(name)), f"name interface {index} {name}")

    def _change_link(self, index: int, attributes: bytes, what: str, flags: int = 0, mask: int = 0) -> None:
        self._socket.request(RTM_NEWLINK, LINK.pack(0, 0, index, flags, mask) + attributes, what=what)


def read_link(body: bytes) -> Link:
    """An interface from the kernel's message. Raises NetlinkError."""
    (_family, _type, index, flags, _change), attributes = split(LINK, body)
    info = unpack_attributes(attributes.get(IFLA_LINKINFO, b""))
    return Link(
        index,
        read_text(attributes, IFLA_IFNAME),
        format_mac(attributes.get(IFLA_ADDRESS, b"")),
        read_u32(attributes, IFLA_MTU),
        flags,
        read_text(info, IFLA_INFO_KIND),
        read_u32(attributes, IFLA_LINK),
        info.get(IFLA_INFO_DATA, b""),
    )

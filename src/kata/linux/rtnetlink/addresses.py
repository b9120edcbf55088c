"""IP addresses of interfaces. One part of `Rtnetlink`."""

from __future__ import annotations

import errno
import socket
import struct
from typing import NamedTuple

from kata.linux.netlink import NLM_F_CREATE, NLM_F_REPLACE, NetlinkError, pack_attribute, pack_u32
from kata.linux.rtnetlink.base import Base, bits, format_ip, parse_ip, split

RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS = 1, 2, 8
IFA_F_NODAD = 0x02

_ADDRESS = struct.Struct("=BBBBI")  # ifaddrmsg: family, prefix, flags, scope, index


class Address(NamedTuple):
    """An IP address of an interface. `family` is AF_INET or AF_INET6."""

    ifindex: int
    family: int
    address: str
    prefix: int
    scope: int = 0


class Addresses(Base):
    """Listing and changing addresses."""

    def list_addresses(self, index: int = 0) -> list[Address]:
        """The addresses of all interfaces, or of one."""
        body = _ADDRESS.pack(0, 0, 0, 0, index)
        replies = self._socket.dump(RTM_GETADDR, body, what="list addresses")
        found = [read_address(reply.body) for reply in replies if reply.kind == RTM_NEWADDR]
        return [address for address in found if address and (not index or address.ifindex == index)]

    def add_address(self, address: Address) -> None:
        """Give an interface an address; one that it has already is fine.

        IPv6 addresses skip duplicate detection: whoever assigns them has done it, and until it ends they are of
        no use to a workload.
        """
        raw = parse_ip(address.family, address.address)
        attributes = pack_attribute(IFA_LOCAL, raw) + pack_attribute(IFA_ADDRESS, raw)
        if address.family == socket.AF_INET6:
            attributes += pack_u32(IFA_FLAGS, IFA_F_NODAD)
        what = f"add address {address.address}/{address.prefix}"
        self._socket.request(RTM_NEWADDR, _pack_address(address) + attributes, NLM_F_CREATE | NLM_F_REPLACE, what=what)

    def remove_address(self, address: Address) -> None:
        """Take an address from an interface."""
        raw = parse_ip(address.family, address.address)
        attributes = pack_attribute(IFA_LOCAL, raw) + pack_attribute(IFA_ADDRESS, raw)
        what = f"remove address {address.address}/{address.prefix}"
        self._socket.request(RTM_DELADDR, _pack_address(address) + attributes, what=what)

    def flush_addresses(self, index: int) -> None:
        """Take all addresses from an interface; secondary ones may go with their primary."""
        for address in self.list_addresses(index):
            try:
                self.remove_address(address)
            except NetlinkError as error:
                if error.errno != errno.EADDRNOTAVAIL:
                    raise


def _pack_address(address: Address) -> bytes:
    if not 0 <= address.prefix <= bits(address.family):
        raise ValueError(f"/{address.prefix} is no prefix of {address.address}")
    return _ADDRESS.pack(address.family, address.prefix, 0, address.scope, address.ifindex)


def read_address(body: bytes) -> Address | None:
    """An address from the kernel's message, None when it is no IP address. Raises NetlinkError."""
    (family, prefix, _flags, scope, index), attributes = split(_ADDRESS, body)
    raw = attributes.get(IFA_LOCAL) or attributes.get(IFA_ADDRESS)  # on point-to-point links the second is the peer's
    if family not in (socket.AF_INET, socket.AF_INET6) or not raw:
        return None
    return Address(index, family, format_ip(family, raw), prefix, scope)

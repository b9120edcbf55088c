"""Which links become endpoints: also those of kinds that few kernels of tests have. pyroute2 writes the messages."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from kata.linux.netlink import pack_attribute
from kata.linux.rtnetlink import Link
from kata.linux.rtnetlink.links import read_link
from kata.network.endpoint import endpoint_kind
from kata.network.errors import UnsupportedInterfaceError
from kata.network.names import ifb_name, is_ours, tap_name

HEADER = 16  # nlmsghdr


def link(kind: str, name: str = "eth0", **info: Any) -> Link:
    """A link as read from a message that pyroute2 made."""
    message = ifinfmsg()
    message["index"], message["flags"] = 7, 0x1043
    attributes: list[Any] = [["IFLA_IFNAME", name], ["IFLA_MTU", 1500], ["IFLA_ADDRESS", "02:00:00:00:00:07"]]
    if kind:
        entries: list[Any] = [["IFLA_INFO_KIND", kind]]
        if info:
            entries.append(["IFLA_INFO_DATA", {"attrs": list(info.items())}])
        attributes += [["IFLA_LINK", 5], ["IFLA_LINKINFO", {"attrs": entries}]]
    message["attrs"] = attributes
    message.encode()
    return read_link(bytes(message.data)[HEADER:])


@pytest.mark.parametrize("kind", ["veth", "macvlan", "ipvlan", "macvtap"])
def test_kinds_of_links(kind: str) -> None:
    read = link(kind)
    assert read[:7] == (7, "eth0", "02:00:00:00:00:07", 1500, 0x1043, kind, 5)
    assert endpoint_kind(read, "") == (kind, "")


def test_what_is_particular_to_a_kind_is_kept() -> None:
    read = link("ipvlan", IFLA_IPVLAN_MODE=1)
    assert read.kind == "ipvlan" and read.info == pack_attribute(1, struct.pack("=H", 1))


@pytest.mark.parametrize(
    ("bus", "expected"),
    [
        ("0000:00:03.0", ("physical", "0000:00:03.0")),
        ("0000:5E:00.1", ("physical", "0000:5e:00.1")),
        ("", ("device", "")),
        ("mlx5_core.sf.4", ("device", "")),
        ("0000:00:03.0\n", ("device", "")),
    ],
)
def test_links_without_a_kind(bus: str, expected: tuple[str, str]) -> None:
    assert endpoint_kind(link(""), bus) == expected


@pytest.mark.parametrize("kind", ["dummy", "vlan", "wireguard", "vrf", "bond", "bridge", "sit", "ipip", "so-new;that"])
def test_kinds_that_no_guest_can_have(kind: str) -> None:
    with pytest.raises(UnsupportedInterfaceError, match=f"'net7' is of the kind {kind}") as caught:
        endpoint_kind(link(kind, "net7"), "")
    assert caught.value.layer == "config" and "veth" in caught.value.hint


@pytest.mark.parametrize(("raw", "kind"), [(b"\1", None), (b"\2", "tap"), (b"", None), (b"\2\0", None)])
def test_a_tun_is_one_only_with_ethernet(raw: bytes, kind: str | None) -> None:
    read = Link(7, "t0", "", 1500, 0, "tun", info=pack_attribute(3, raw))
    if kind:
        assert endpoint_kind(read, "") == (kind, "")
        return
    with pytest.raises(UnsupportedInterfaceError, match="'t0' is of the kind tun"):
        endpoint_kind(read, "")


def test_names_of_ours() -> None:
    for index in (1, 9_999_999, 123_456_789):
        for name, kind in ((tap_name(index), "tun"), (tap_name(index), "macvtap"), (ifb_name(index), "ifb")):
            assert len(name) <= 15
            assert is_ours(Link(7, name, "", 1500, 0, kind))
    for name, kind in (("tap3_kata", "veth"), ("tap_kata", "tun"), ("tap3_katas", "tun"), ("xtap3_kata", "tun")):
        assert not is_ours(Link(7, name, "", 1500, 0, kind))

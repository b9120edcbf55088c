"""Netlink's framing against odd answers. The kernel's own answers are in tests/kernel."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.linux import netlink, rtnetlink
from kata.linux.netlink import NetlinkError
from kata.linux.rtnetlink.addresses import read_address
from kata.linux.rtnetlink.links import read_link
from kata.linux.rtnetlink.neighbours import read_neighbour
from kata.linux.rtnetlink.routes import read_routes
from kata.linux.rtnetlink.tc import read_filter

ATTRIBUTES = st.lists(st.tuples(st.integers(0, 0x3FFF), st.binary(max_size=40)), max_size=6)


@given(ATTRIBUTES)
def test_attributes_survive(attributes: list[tuple[int, bytes]]) -> None:
    packed = b"".join(netlink.pack_attribute(kind, value) for kind, value in attributes)
    assert len(packed) % 4 == 0
    assert list(netlink.iterate_attributes(packed)) == attributes


@given(st.binary(max_size=200))
def test_garbage_is_an_error_or_nothing(data: bytes) -> None:
    with contextlib.suppress(NetlinkError):
        netlink.unpack_attributes(data)
    with contextlib.suppress(NetlinkError):
        list(netlink.split_messages(data))
    for read in (read_link, read_address, read_routes, read_neighbour, read_filter):
        with contextlib.suppress(NetlinkError):
            read(data)


@pytest.mark.parametrize("length", [0, 3, 9, 0xFFFF])
def test_impossible_attribute_lengths(length: int) -> None:
    with pytest.raises(NetlinkError) as caught:
        netlink.unpack_attributes(struct.pack("=HH", length, 1) + b"1234")
    assert caught.value.errno == errno.EBADMSG


@pytest.mark.parametrize("length", [0, 15, 17, 0xFFFFFFFF])
def test_impossible_message_lengths(length: int) -> None:
    with pytest.raises(NetlinkError) as caught:
        list(netlink.split_messages(struct.pack("=IHHII", length, 3, 0, 1, 0)))
    assert caught.value.errno == errno.EBADMSG


def test_flag_bits_of_an_attribute_type_are_no_part_of_it() -> None:
    assert netlink.unpack_attributes(netlink.pack_nested(8, [netlink.pack_u32(2, 1500)])) == {
        8: netlink.pack_u32(2, 1500)
    }


@pytest.mark.parametrize("value", [-1, 2**32])
def test_numbers_that_do_not_fit(value: int) -> None:
    with pytest.raises(ValueError, match="32 bits"):
        netlink.pack_u32(1, value)


def test_attributes_that_are_too_long() -> None:
    with pytest.raises(ValueError, match="too long"):
        netlink.pack_attribute(1, bytes(65532))


@pytest.mark.parametrize(
    "text", ["", "02:00:00:00:00", "02:00:00:00:00:0g", "2:0:0:0:0:0", "02-00-00-00-00-00", "02:00:00:00:00:00:00"]
)
def test_bad_hardware_addresses(text: str) -> None:
    with pytest.raises(ValueError, match="no hardware address"):
        rtnetlink.parse_mac(text)


@pytest.mark.parametrize(
    ("family", "text"),
    [
        (socket.AF_INET, "::1"),
        (socket.AF_INET6, "1.2.3.4"),
        (socket.AF_INET, "1.2.3"),
        (socket.AF_INET, ""),
        (socket.AF_INET, "1.2.3.4\0"),
    ],
)
def test_bad_addresses(family: int, text: str) -> None:
    with pytest.raises(ValueError, match=r"no IPv|null"):
        rtnetlink.parse_ip(family, text)


class Kernel:
    """A peer that answers as a test wants, in place of the netlink socket."""

    def __init__(self, *datagrams: tuple[bytes, int]) -> None:
        self.datagrams = list(datagrams)
        self.sent: list[bytes] = []

    def settimeout(self, timeout: float) -> None:
        assert timeout > 0

    def sendto(self, data: bytes, _address: tuple[int, int]) -> None:
        self.sent.append(data)

    def recvmsg(self, _size: int) -> tuple[bytes, list[object], int, tuple[int, int]]:
        if not self.datagrams:
            raise TimeoutError
        data, port = self.datagrams.pop(0)
        return data, [], 0, (port, 0)

    def close(self) -> None:
        pass


def answer(kind: int, body: bytes, *, sequence: int = 1, flags: int = 0) -> bytes:
    raw = struct.pack("=IHHII", 16 + len(body), kind, flags, sequence, 0) + body
    return raw + bytes(-len(raw) % 4)


def talk(*datagrams: tuple[bytes, int]) -> netlink.NetlinkSocket:
    made = netlink.NetlinkSocket(socket.NETLINK_ROUTE)
    made._socket.close()
    made._socket = Kernel(*datagrams)  # type: ignore[assignment]  # the four methods that are used
    return made


ACK = answer(netlink.NLMSG_ERROR, struct.pack("=i", 0) + bytes(16))
DONE = answer(netlink.NLMSG_DONE, struct.pack("=i", 0))


def test_answers_of_others_are_skipped() -> None:
    forged = answer(netlink.NLMSG_ERROR, struct.pack("=i", -errno.EPERM) + bytes(16))
    stale = answer(netlink.NLMSG_ERROR, struct.pack("=i", -errno.EPERM) + bytes(16), sequence=99)
    data = answer(16, b"mine")
    assert talk((forged, 4711), (stale, 0), (data + ACK, 0)).request(16, b"", what="x") == [(16, b"mine")]


def test_a_refusal_with_the_kernels_words() -> None:
    words = netlink.pack_attribute(1, b"Because I say so\0")
    body = struct.pack("=i", -errno.EPERM) + struct.pack("=IHHII", 16, 16, 0, 1, 0) + words
    capped = answer(netlink.NLMSG_ERROR, body, flags=0x300)
    full = struct.pack("=i", -errno.EPERM) + struct.pack("=IHHII", 20, 16, 0, 1, 0) + b"req." + words
    for raw in (capped, answer(netlink.NLMSG_ERROR, full, flags=0x200)):
        with pytest.raises(NetlinkError) as caught:
            talk((raw, 0)).request(16, b"", what="do it")
        assert caught.value.errno == errno.EPERM
        assert caught.value.strerror == "do it: Operation not permitted (Because I say so)"


def test_an_error_at_the_end_of_a_dump() -> None:
    with pytest.raises(NetlinkError) as caught:
        talk((answer(netlink.NLMSG_DONE, struct.pack("=i", -errno.EINVAL)), 0)).dump(18, b"", what="list")
    assert caught.value.errno == errno.EINVAL


def test_a_dump_in_pieces() -> None:
    pieces = [(answer(16, b"a", flags=2), 0), (answer(16, b"b", flags=2), 0), (DONE, 0)]
    assert [message.body for message in talk(*pieces).dump(18, b"", what="list")] == [b"a", b"b"]


def test_an_interrupted_dump_is_asked_again() -> None:
    first = [(answer(16, b"old", flags=2 | netlink.NLM_F_DUMP_INTR), 0), (DONE, 0)]
    second = [(answer(16, b"new", sequence=2), 0), (answer(netlink.NLMSG_DONE, struct.pack("=i", 0), sequence=2), 0)]
    made = talk(*first, *second)
    assert [message.body for message in made.dump(18, b"", what="list")] == [b"new"]


def test_a_dump_that_never_settles() -> None:
    pieces = [
        (answer(netlink.NLMSG_DONE, struct.pack("=i", 0), sequence=number, flags=netlink.NLM_F_DUMP_INTR), 0)
        for number in range(1, 20)
    ]
    with pytest.raises(NetlinkError, match="kept changing"):
        talk(*pieces).dump(18, b"", what="list")


@pytest.mark.parametrize("body", [b"", b"\0\0"])
def test_a_short_acknowledgement(body: bytes) -> None:
    with pytest.raises(NetlinkError, match="cut short"):
        talk((answer(netlink.NLMSG_ERROR, body), 0)).request(16, b"", what="x")


def test_silence_ends() -> None:
    with pytest.raises(TimeoutError, match="x: the kernel did not answer in time"):
        talk().request(16, b"", what="x")

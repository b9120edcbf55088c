"""The text of device events."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.linux.uevent import Uevent, parse


def test_an_event() -> None:
    raw = b"add@/devices/x/net/eth0\0ACTION=add\0DEVPATH=/devices/x/net/eth0\0SUBSYSTEM=net\0INTERFACE=eth0\0SEQNUM=7\0"
    assert parse(raw) == Uevent("add", "/devices/x/net/eth0", "net", "", "eth0", "7")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"libudev\0\xfe\xed\xca\xfe",
        b"add@/x",
        b"add@/x\0ACTION=add\0",
        b"add@/x\0DEVPATH=/x\0",
        b"add@/x\0ACTION=add\0DEVPATH=x\0",
    ],
)
def test_what_is_none(raw: bytes) -> None:
    assert parse(raw) is None


@given(st.binary(max_size=200))
def test_no_text_breaks_it(raw: bytes) -> None:
    parse(b"add@/x\0" + raw)
    parse(raw)

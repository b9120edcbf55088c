"""Ports are looked at before anything is started for them."""

from __future__ import annotations

import socket

import pytest

from kata.ctl.prepare import check_ports
from kata.hypervisor.machine import PublishedPort
from kata.sandbox.errors import ConflictError


@pytest.mark.parametrize(("protocol", "kind"), [("tcp", socket.SOCK_STREAM), ("udp", socket.SOCK_DGRAM)])
def test_a_port_that_is_taken(protocol: str, kind: int) -> None:
    with socket.socket(socket.AF_INET, kind) as other:
        other.bind(("127.0.0.1", 0))
        if protocol == "tcp":
            other.listen()
        number = other.getsockname()[1]
        port = PublishedPort(host_port=number, guest_port=80, protocol="udp" if protocol == "udp" else "tcp")
        with pytest.raises(ConflictError, match=f"port {number}/{protocol} of 127.0.0.1 .* it is taken") as caught:
            check_ports([port])
        assert "ss" in caught.value.hint
    check_ports([port])
    check_ports([port])


def test_an_address_that_is_not_ours() -> None:
    port = PublishedPort(host_port=9, guest_port=80, host_address="192.0.2.1")
    with pytest.raises(ConflictError, match=r"192\.0\.2\.1 cannot be published: Cannot assign"):
        check_ports([port])


@pytest.mark.parametrize(("protocol", "kind"), [("tcp", socket.SOCK_STREAM), ("udp", socket.SOCK_DGRAM)])
def test_the_same_port_twice(protocol: str, kind: int) -> None:
    with socket.socket(socket.AF_INET, kind) as free:
        free.bind(("127.0.0.1", 0))
        number = free.getsockname()[1]
    port = PublishedPort(host_port=number, guest_port=80, protocol="udp" if protocol == "udp" else "tcp")
    with pytest.raises(ConflictError, match="it is taken"):
        check_ports([port, port])

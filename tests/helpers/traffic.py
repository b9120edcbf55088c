"""Peers of a guest: TCP connections and a DNS server in a test's namespace, and data that show what became of them."""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from kata.linux.netns import NetworkNamespace
from tests.kernel.netns import Netns

MIB = 1 << 20
TIMEOUT = 120.0
A, AUTHORITATIVE_ANSWER, NAME_ERROR = 1, 0x8580, 3
"""Type of an address record; flags of an answer, and what they hold for a name that does not exist (RFC 1035)."""


def dial(place: Netns, address: str, port: int) -> socket.socket:
    """A TCP connection from a namespace."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with NetworkNamespace(place.path) as namespace:
        sock = namespace.call(lambda: socket.socket(family, socket.SOCK_STREAM))
    sock.settimeout(TIMEOUT)
    try:
        sock.connect((address, port))
    except OSError:
        sock.close()
        raise
    return sock


def exchange(sock: socket.socket, mib: int) -> tuple[str, str]:
    """Send `mib` MiB to somebody who sends them back; the SHA-256 of what was sent, and of what came.

    Each block differs from all others, so that one that is lost, doubled or in another's place is seen.
    """
    sent, came = hashlib.sha256(), hashlib.sha256()
    noise = os.urandom(MIB - 8)

    def send() -> None:
        for number in range(mib):
            block = struct.pack("!Q", number) + noise
            sent.update(block)
            sock.sendall(block)
        sock.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=send)
    thread.start()
    while chunk := sock.recv(MIB):
        came.update(chunk)
    thread.join()
    return sent.hexdigest(), came.hexdigest()


@contextmanager
def name_server(place: Netns, address: str, names: dict[str, str]) -> Iterator[list[str]]:
    """A DNS server in a namespace, which knows these names' IPv4 addresses. What it is asked comes into the list."""
    asked: list[str] = []
    with NetworkNamespace(place.path) as namespace:
        sock = namespace.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with sock:
        sock.bind((address, 53))
        thread = threading.Thread(target=_serve, args=(sock, names, asked))
        thread.start()
        try:
            yield asked
        finally:
            with suppress(OSError):  # ENOTCONN, and it wakes all the same
                sock.shutdown(socket.SHUT_RD)
            thread.join()


def _serve(sock: socket.socket, names: dict[str, str], asked: list[str]) -> None:
    while True:
        query, client = sock.recvfrom(1 << 16)
        if not query:
            return
        asked.append(_name(query))
        sock.sendto(_answer(query, names), client)


def _answer(query: bytes, names: dict[str, str]) -> bytes:
    name, end = _name(query), query.index(0, 12) + 5
    (kind,) = struct.unpack_from("!H", query, end - 4)
    found = names.get(name, "")
    record = b""
    if found and kind == A:
        record = struct.pack("!HHHIH", 0xC00C, A, 1, 60, 4) + socket.inet_aton(found)
    flags = AUTHORITATIVE_ANSWER | (0 if found else NAME_ERROR)
    head = query[:2] + struct.pack("!HHHHH", flags, 1, bool(record), 0, 0)
    return head + query[12:end] + record


def _name(query: bytes) -> str:
    labels, place = [], 12
    while length := query[place]:
        labels.append(query[place + 1 : place + 1 + length].decode())
        place += 1 + length
    return ".".join(labels)

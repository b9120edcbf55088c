"""A guest without a VM: answers ARP, neighbour solicitations, echo requests and UDP from the descriptors of a tap."""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import threading
import time

TUNSETOFFLOAD = 0x400454D0
HEADER = 10  # virtio_net_hdr, which a tap puts before each frame unless told another length
ARP, IPV4, IPV6 = 0x0806, 0x0800, 0x86DD
ICMP, UDP, ICMPV6 = 1, 17, 58
ECHO, ECHO_REPLY, ECHO6, ECHO6_REPLY, SOLICIT, ADVERTISE = 8, 0, 128, 129, 135, 136


def checksum(data: bytes) -> int:
    """The internet checksum (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class GuestNic:
    """One NIC with one address of each family. Context manager; a thread serves it."""

    def __init__(self, fds: tuple[int, ...], mac: str, address: str, address6: str = "fd77::2") -> None:
        self.fds = tuple(os.dup(fd) for fd in fds)
        for fd in self.fds:
            fcntl.ioctl(fd, TUNSETOFFLOAD, 0)  # whole checksums, please: macvtap's default is to leave them to us
        self.mac = bytes.fromhex(mac.replace(":", ""))
        self.ip, self.ip6 = socket.inet_pton(socket.AF_INET, address), socket.inet_pton(socket.AF_INET6, address6)
        self.frames: list[bytes] = []
        self._replies: dict[bytes, bytes] = {}
        self._heard = threading.Condition()
        self._wake = os.eventfd(0)
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> GuestNic:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        for fd in (*self.fds, self._wake):
            os.close(fd)

    def ping(self, address: str, size: int = 56, timeout: float = 10.0) -> bool:
        """Whether an IPv4 echo comes back to us: by ARP, then ICMP."""
        target = socket.inet_pton(socket.AF_INET, address)
        request = struct.pack("!HHBBH6s4s6s4s", 1, IPV4, 6, 4, 1, self.mac, self.ip, bytes(6), target)
        self._send(b"\xff" * 6, ARP, request)
        mac = self._wait(b"arp" + target, timeout)
        if not mac:
            return False
        ident = os.urandom(4)
        self._send(mac, IPV4, self._ipv4(target, ICMP, self._icmp(ECHO, ident + bytes(size))))
        return self._wait(b"echo" + ident, timeout) is not None

    def flood(self, address: str, port: int, count: int, size: int) -> None:
        """Send UDP without a pause; it has to know the way already, so ping first."""
        target = socket.inet_pton(socket.AF_INET, address)
        if b"arp" + target not in self._replies:
            assert self.ping(address)
        mac = self._replies[b"arp" + target]
        datagram = struct.pack("!HHHH", port, port, 8 + size, 0) + bytes(size)
        for _ in range(count):
            self._send(mac, IPV4, self._ipv4(target, UDP, datagram))

    def saw(self, ethertype: int, timeout: float = 5.0) -> bool:
        """Whether a frame of this type has come, or comes."""
        return self._wait(b"type" + struct.pack("!H", ethertype), timeout) is not None

    def await_bytes(self, count: int, timeout: float = 10.0) -> int:
        """How much has come, once it is more than that or the time is over."""
        with self._heard:
            self._heard.wait_for(lambda: sum(map(len, self.frames)) > count, timeout)
            return sum(map(len, self.frames))

    def _wait(self, key: bytes, timeout: float) -> bytes | None:
        deadline = time.monotonic() + timeout
        with self._heard:
            while key not in self._replies:
                if not self._heard.wait(deadline - time.monotonic()):
                    return None
            return self._replies[key]

    def _serve(self) -> None:
        poll = select.poll()
        for fd in (*self.fds, self._wake):
            poll.register(fd, select.POLLIN)
        while True:
            for fd, event in poll.poll():
                if fd == self._wake or event & ~select.POLLIN:
                    return
                self._frame(os.read(fd, 1 << 17)[HEADER:])

    def _frame(self, frame: bytes) -> None:
        self.frames.append(frame)
        source, ethertype, body = frame[6:12], int.from_bytes(frame[12:14], "big"), frame[14:]
        self._note(b"type" + frame[12:14], source)
        if frame[:6] != self.mac and not frame[0] & 1:
            return
        if ethertype == ARP:
            self._arp(body)
        elif ethertype == IPV4 and body[16:20] == self.ip:
            self._ip(source, body)
        elif ethertype == IPV6:
            self._ipv6(source, body)

    def _note(self, key: bytes, value: bytes) -> None:
        with self._heard:
            self._replies[key] = value
            self._heard.notify_all()

    def _arp(self, body: bytes) -> None:
        operation, sender, source, target = body[6:8], body[8:14], body[14:18], body[24:28]
        if operation == b"\0\2":
            self._note(b"arp" + source, sender)
        elif target == self.ip:
            answer = body[:6] + b"\0\2" + self.mac + self.ip + sender + source
            self._send(sender, ARP, answer)

    def _ip(self, mac: bytes, body: bytes) -> None:
        length = int.from_bytes(body[2:4], "big")
        source, payload = body[12:16], body[(body[0] & 15) * 4 : length]
        if body[9] == ICMP and payload[0] == ECHO:
            self._send(mac, IPV4, self._ipv4(source, ICMP, self._icmp(ECHO_REPLY, payload[4:])))
        elif body[9] == ICMP and payload[0] == ECHO_REPLY:
            self._note(b"echo" + payload[4:8], mac)
        elif body[9] == UDP:
            assert self._udp_sum(source, payload) in (0, 0xFFFF) or payload[6:8] == b"\0\0", "a broken UDP checksum"
            answer = payload[2:4] + payload[:2] + payload[4:6] + b"\0\0" + payload[8:]
            self._send(mac, IPV4, self._ipv4(source, UDP, answer))

    def _udp_sum(self, source: bytes, payload: bytes) -> int:
        return checksum(source + self.ip + struct.pack("!HH", UDP, len(payload)) + payload)

    def _ipv6(self, mac: bytes, body: bytes) -> None:
        source, target = body[8:24], body[24:40]
        payload = body[40 : 40 + int.from_bytes(body[4:6], "big")]
        if body[6] != ICMPV6:
            return
        if payload[0] == SOLICIT and payload[8:24] == self.ip6:
            option = b"\2\1" + self.mac
            self._send(mac, IPV6, self._icmp6(source, ADVERTISE, b"\x60\0\0\0" + self.ip6 + option))
        elif payload[0] == ECHO6 and target == self.ip6:
            self._send(mac, IPV6, self._icmp6(source, ECHO6_REPLY, payload[4:]))

    def _icmp(self, kind: int, rest: bytes) -> bytes:
        return struct.pack("!BBH", kind, 0, checksum(struct.pack("!BBH", kind, 0, 0) + rest)) + rest

    def _icmp6(self, target: bytes, kind: int, rest: bytes) -> bytes:
        body = struct.pack("!BBH", kind, 0, 0) + rest
        pseudo = self.ip6 + target + struct.pack("!II", len(body), ICMPV6)
        body = struct.pack("!BBH", kind, 0, checksum(pseudo + body)) + rest
        return struct.pack("!IHBB", 6 << 28, len(body), ICMPV6, 255) + self.ip6 + target + body

    def _ipv4(self, target: bytes, protocol: int, payload: bytes) -> bytes:
        head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0, self.ip, target)
        return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload

    def _send(self, mac: bytes, ethertype: int, body: bytes) -> None:
        os.write(self.fds[0], bytes(HEADER) + mac + self.mac + struct.pack("!H", ethertype) + body)

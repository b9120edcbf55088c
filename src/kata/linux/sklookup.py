"""One socket that takes every TCP connection to a network namespace's 127.0.0.0/8, whatever the port.

A BPF program at the kernel's look-up of listening sockets (Documentation/bpf/prog_sk_lookup.rst, Linux 5.9 and later)
chooses the socket. It goes with the descriptor of its attachment, so nothing stays when a process is killed. Needs
CAP_BPF or CAP_SYS_ADMIN, and CAP_NET_ADMIN.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

from kata.linux import bpf, syscalls

# enum bpf_cmd, bpf_map_type, bpf_prog_type, bpf_attach_type; helpers (linux/bpf.h)
MAP_CREATE, MAP_UPDATE_ELEM, LINK_CREATE = 0, 2, 28
MAP_TYPE_SOCKMAP, PROG_TYPE_SK_LOOKUP, ATTACH_SK_LOOKUP = 15, 30, 36
FN_MAP_LOOKUP_ELEM, FN_SK_RELEASE, FN_SK_ASSIGN = 1, 86, 124
PSEUDO_MAP_FD = 1

# struct bpf_sk_lookup: offsets
FAMILY, PROTOCOL, LOCAL_IP4 = 8, 12, 40
AF_INET, IPPROTO_TCP = 2, 6
LOOPBACK_NET = 127


def take_loopback(netns_fd: int, socket_fd: int) -> int:
    """Give `socket_fd`, a listening TCP socket of that namespace, all connections to 127.0.0.0/8 in it.

    A descriptor that keeps it so; the caller owns it. The accepted socket's own address says what was dialled. Raises
    OSError (EPERM without the capabilities, EINVAL from a kernel that is too old).
    """
    socket_map = syscalls.bpf(MAP_CREATE, struct.pack("<5I", MAP_TYPE_SOCKMAP, 4, 4, 1, 0))
    try:
        _put(socket_map, socket_fd)
        program = bpf.load(PROG_TYPE_SK_LOOKUP, ATTACH_SK_LOOKUP, b"kata_loopback", _program(socket_map))
        try:
            return syscalls.bpf(LINK_CREATE, struct.pack("<4I", program, netns_fd, ATTACH_SK_LOOKUP, 0))
        finally:
            os.close(program)
    finally:
        os.close(socket_map)


def _put(socket_map: int, socket_fd: int) -> None:
    key, value = ctypes.c_uint32(0), ctypes.c_uint32(socket_fd)
    attributes = struct.pack("<IIQQQ", socket_map, 0, ctypes.addressof(key), ctypes.addressof(value), 0)
    syscalls.bpf(MAP_UPDATE_ELEM, attributes)


def _program(socket_map: int) -> bytes:
    """If it is TCP to 127.x.y.z, take the map's one socket; let the kernel go on in any case."""
    first_byte = bpf.mask(2, 0xFF) if sys.byteorder == "little" else bpf.shift(2, 24)
    body: list[bytes | bpf.Jump] = [
        bpf.move(6, 1),
        bpf.read(2, 1, FAMILY),
        ("unless", 2, AF_INET),
        bpf.read(2, 1, PROTOCOL),
        ("unless", 2, IPPROTO_TCP),
        bpf.read(2, 1, LOCAL_IP4),
        first_byte,
        ("unless", 2, LOOPBACK_NET),
        bpf.one(0x62, 10, 0, -4, 0),  # *(u32 *)(r10 - 4) = 0, the key
        bpf.move(2, 10),
        bpf.one(0x07, 2, 0, 0, -4),  # r2 += -4
        bpf.one(0x18, 1, PSEUDO_MAP_FD, 0, socket_map) + bytes(8),  # r1 = the map, a 64-bit constant
        bpf.call(FN_MAP_LOOKUP_ELEM),
        ("if", 0, 0),
        bpf.move(7, 0),
        bpf.move(1, 6),
        bpf.move(2, 0),
        bpf.put(3, 0),  # no flags
        bpf.call(FN_SK_ASSIGN),
        bpf.move(1, 7),
        bpf.call(FN_SK_RELEASE),
    ]
    return bpf.block(body) + bpf.put(0, 1) + bpf.leave()  # SK_PASS

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

from kata.linux import syscalls

# enum bpf_cmd, bpf_map_type, bpf_prog_type, bpf_attach_type; helpers (linux/bpf.h)
MAP_CREATE, MAP_UPDATE_ELEM, PROG_LOAD, LINK_CREATE = 0, 2, 5, 28
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
        program = _load(_program(socket_map))
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


def _load(code: bytes) -> int:
    instructions, licence = ctypes.create_string_buffer(code, len(code)), ctypes.create_string_buffer(b"Apache-2.0")
    pointers = (ctypes.addressof(instructions), ctypes.addressof(licence))
    head = struct.pack("<IIQQ", PROG_TYPE_SK_LOOKUP, len(code) // 8, *pointers)
    no_log, flags, name, interface = struct.pack("<IIQI", 0, 0, 0, 0), 0, b"kata_loopback", 0
    return syscalls.bpf(PROG_LOAD, head + no_log + struct.pack("<I16sII", flags, name, interface, ATTACH_SK_LOOKUP))


def _program(socket_map: int) -> bytes:
    """If it is TCP to 127.x.y.z, take the map's one socket; let the kernel go on in any case.

    Registers: r1 to r5 arguments, r0 a result, r6 to r9 kept over calls, r10 the stack's frame.
    """
    first_byte: tuple[str, int, int] = ("and", 2, 0xFF) if sys.byteorder == "little" else ("shift", 2, 24)
    body: list[bytes | tuple[str, int, int]] = [
        _move(6, 1),
        _read(2, 1, FAMILY),
        ("unless", 2, AF_INET),
        _read(2, 1, PROTOCOL),
        ("unless", 2, IPPROTO_TCP),
        _read(2, 1, LOCAL_IP4),
        first_byte,
        ("unless", 2, LOOPBACK_NET),
        _one(0x62, 10, 0, -4, 0),  # *(u32 *)(r10 - 4) = 0, the key
        _move(2, 10),
        _one(0x07, 2, 0, 0, -4),  # r2 += -4
        _one(0x18, 1, PSEUDO_MAP_FD, 0, socket_map) + bytes(8),  # r1 = the map, a 64-bit constant
        _call(FN_MAP_LOOKUP_ELEM),
        ("if", 0, 0),
        _move(7, 0),
        _move(1, 6),
        _move(2, 0),
        _one(0xB7, 3, 0, 0, 0),  # r3 = 0: no flags
        _call(FN_SK_ASSIGN),
        _move(1, 7),
        _call(FN_SK_RELEASE),
    ]
    return _assemble(body) + _one(0xB7, 0, 0, 0, 1) + _one(0x95, 0, 0, 0, 0)  # r0 = SK_PASS; exit


def _assemble(body: list[bytes | tuple[str, int, int]]) -> bytes:
    """Turn jumps into offsets: all of them lead behind the body."""
    codes = {"unless": 0x55, "if": 0x15, "and": 0x57, "shift": 0x77}
    sizes = [len(entry) // 8 if isinstance(entry, bytes) else 1 for entry in body]
    code = b""
    for position, entry in enumerate(body):
        if isinstance(entry, bytes):
            code += entry
        else:
            name, register, value = entry
            offset = sum(sizes[position + 1 :]) if name in ("unless", "if") else 0
            code += _one(codes[name], register, 0, offset, value)
    return code


def _one(code: int, target: int, source: int, offset: int, value: int) -> bytes:
    """One instruction (Documentation/bpf/standardization/instruction-set.rst)."""
    registers = source << 4 | target if sys.byteorder == "little" else target << 4 | source
    return struct.pack("=BBhi", code, registers, offset, value)


def _move(target: int, source: int) -> bytes:
    return _one(0xBF, target, source, 0, 0)


def _read(target: int, source: int, offset: int) -> bytes:
    return _one(0x61, target, source, offset, 0)


def _call(helper: int) -> bytes:
    return _one(0x85, 0, 0, 0, helper)

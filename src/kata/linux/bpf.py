"""BPF programs by hand: single instructions, and loading them. Used by those who attach one; never add a use here.

Instructions: Documentation/bpf/standardization/instruction-set.rst. Registers: r1 to r5 arguments, r0 a result, r6 to
r9 kept over calls, r10 the stack's frame.
"""

from __future__ import annotations

import ctypes
import struct
import sys

from kata.linux import syscalls

PROG_LOAD = 5
"""enum bpf_cmd (linux/bpf.h)."""


def load(kind: int, attached: int, name: bytes, code: bytes) -> int:
    """Give the kernel a program; its descriptor, which the caller owns. `kind` and `attached` are the kernel's enums.

    Raises OSError: EPERM without CAP_BPF or CAP_SYS_ADMIN, EINVAL from a kernel that does not know it, EACCES for a
    program that its verifier refuses.
    """
    instructions, licence = ctypes.create_string_buffer(code, len(code)), ctypes.create_string_buffer(b"Apache-2.0")
    pointers = (ctypes.addressof(instructions), ctypes.addressof(licence))
    head = struct.pack("<IIQQ", kind, len(code) // 8, *pointers)
    no_log, flags, interface = struct.pack("<IIQI", 0, 0, 0, 0), 0, 0
    return syscalls.bpf(PROG_LOAD, head + no_log + struct.pack("<I16sII", flags, name, interface, attached))


def one(code: int, target: int, source: int, offset: int, value: int) -> bytes:
    """One instruction."""
    registers = source << 4 | target if sys.byteorder == "little" else target << 4 | source
    return struct.pack("=BBhi", code, registers, offset, value)


def move(target: int, source: int) -> bytes:
    """target = source"""
    return one(0xBF, target, source, 0, 0)


def put(target: int, value: int) -> bytes:
    """target = value"""
    return one(0xB7, target, 0, 0, value)


def read(target: int, source: int, offset: int) -> bytes:
    """target = the 32 bits at source + offset"""
    return one(0x61, target, source, offset, 0)


def mask(target: int, value: int) -> bytes:
    """target &= value"""
    return one(0x57, target, 0, 0, value)


def shift(target: int, value: int) -> bytes:
    """target >>= value"""
    return one(0x77, target, 0, 0, value)


def call(helper: int) -> bytes:
    """r0 = helper(r1, r2, …)"""
    return one(0x85, 0, 0, 0, helper)


def leave() -> bytes:
    """return r0"""
    return one(0x95, 0, 0, 0, 0)


Jump = tuple[str, int, int]
"""("if" or "unless", register, value): to the end of the block if the register is that, or is not."""


def block(body: list[bytes | Jump]) -> bytes:
    """Instructions, all jumps in which lead behind the last."""
    codes = {"unless": 0x55, "if": 0x15}
    sizes = [len(entry) // 8 if isinstance(entry, bytes) else 1 for entry in body]
    code = b""
    for position, entry in enumerate(body):
        if isinstance(entry, bytes):
            code += entry
        else:
            name, register, value = entry
            code += one(codes[name], register, 0, sum(sizes[position + 1 :]), value)
    return code

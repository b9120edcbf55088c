"""Writes cpio archives in the form that the kernel unpacks as an initramfs (`newc`), always with the same bytes.

Rule: Documentation/driver-api/early-userspace/buffer-format.rst of the kernel. Members are sorted by name, owned
by root, dated 0, with inode numbers counted from 1. Nothing here decides what goes into an archive.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from typing import NamedTuple

from kata.linux import process

TRAILER = "TRAILER!!!"
BLOCK = 512


class Node(NamedTuple):
    """One member: full `mode` with the type bits, `data` (a link's target), device numbers for nodes."""

    mode: int
    data: bytes = b""
    major: int = 0
    minor: int = 0


def directory(mode: int = 0o755) -> Node:
    """A folder."""
    return Node(stat.S_IFDIR | mode)


def file(data: bytes, mode: int = 0o644) -> Node:
    """A regular file."""
    return Node(stat.S_IFREG | mode, data)


def symlink(target: str) -> Node:
    """A symbolic link."""
    return Node(stat.S_IFLNK | 0o777, target.encode())


def character_device(major: int, minor: int, mode: int = 0o600) -> Node:
    """A character device node."""
    return Node(stat.S_IFCHR | mode, b"", major, minor)


def archive(nodes: Mapping[str, Node]) -> bytes:
    """The archive of `nodes`, whose names have no leading slash. Folders sort before what they hold."""
    out = bytearray()
    for number, name in enumerate(sorted(nodes), 1):
        _append(out, number, name, nodes[name])
    _append(out, 0, TRAILER, Node(0))
    out += bytes(-len(out) % BLOCK)
    return bytes(out)


def _append(out: bytearray, inode: int, name: str, node: Node) -> None:
    encoded = name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(node.mode) else 1
    fields = (
        inode,
        node.mode,
        0,  # uid
        0,  # gid
        links,
        0,  # mtime
        len(node.data),
        0,  # device of the file system: major, minor
        0,
        node.major,
        node.minor,
        len(encoded),
        0,  # checksum, unused by newc
    )
    out += b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
    out += bytes(-len(out) % 4) + node.data
    out += bytes(-len(out) % 4)


def compress(data: bytes) -> bytes:
    """`data` as a zstd stream: of what kernels read as an initrd, the fastest to unpack in an emulated guest."""
    return process.run(("zstd", "-19", "--no-progress", "-c"), input=data, timeout=300.0).stdout

"""A guest's kernel that keeps to no rule: raw FUSE requests to a virtiofsd, over vhost-user, without any VM.

Linux would refuse a name with a slash, or check a mode, before a request left the guest; a hostile kernel does not.
Numbers are those of vhost-user (QEMU, docs/interop/vhost-user.rst), linux/virtio_ring.h and linux/fuse.h.
"""

from __future__ import annotations

import mmap
import os
import select
import socket
import struct
from typing import NamedTuple, Self

GET_FEATURES, SET_FEATURES, SET_OWNER, SET_MEM_TABLE = 1, 2, 3, 5
SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_BASE, SET_VRING_KICK, SET_VRING_CALL = 8, 9, 10, 12, 13
GET_PROTOCOL_FEATURES, SET_PROTOCOL_FEATURES, SET_VRING_ENABLE = 15, 16, 18
VERSION_1, PROTOCOL_FEATURES = 1 << 32, 1 << 30

LOOKUP, FORGET, GETATTR, SETATTR, READLINK, SYMLINK, MKNOD, MKDIR = 1, 2, 3, 4, 5, 6, 8, 9
UNLINK, RMDIR, RENAME, LINK, OPEN, READ, WRITE, SETXATTR = 10, 11, 12, 13, 14, 15, 16, 21
INIT, OPENDIR, READDIR, CREATE = 26, 27, 28, 35
ROOT = 1

QUEUES, QUEUE = 2, 1
"""Queue 0 is for what is urgent; requests go to the next."""
SIZE = 64
AREA = 0x4000
MEMORY = 4 << 20
REQUEST, REPLY, MOST = 1 << 20, 2 << 20, 1 << 20
ANSWER_TIMEOUT = 10.0
_HEADER = struct.Struct("<IIQQIIII")
_OUT = struct.Struct("<IiQ")


class Reply(NamedTuple):
    """What the daemon says: an error number (0: none), and the rest."""

    error: int
    data: bytes

    @property
    def node(self) -> int:
        """Of an entry: the number of its inode in further requests."""
        number: int = struct.unpack_from("<Q", self.data)[0]
        return number

    @property
    def mode(self) -> int:
        """Of an entry: type and permissions (struct fuse_entry_out: 40 bytes, then struct fuse_attr)."""
        number: int = struct.unpack_from("<I", self.data, 40 + 60)[0]
        return number

    @property
    def owner(self) -> tuple[int, int]:
        """Of an entry: user and group."""
        uid, gid = struct.unpack_from("<II", self.data, 40 + 68)
        return uid, gid

    @property
    def handle(self) -> int:
        """Of something opened."""
        number: int = struct.unpack_from("<Q", self.data)[0]
        return number


class RawFuse:
    """One connection to a daemon's socket. Context manager."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(ANSWER_TIMEOUT)
        self._socket.connect(path)
        self._memory_fd = os.memfd_create("guest")
        os.ftruncate(self._memory_fd, MEMORY)
        self._memory = mmap.mmap(self._memory_fd, MEMORY)
        self._kick, self._call = os.eventfd(0), os.eventfd(0)
        self._spare = [os.eventfd(0), os.eventfd(0)]
        self._sent = 0
        self._set_up()
        self.request(INIT, 0, struct.pack("<IIII", 7, 31, 1 << 20, 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()
        self._memory.close()
        for fd in (self._memory_fd, self._kick, self._call, *self._spare):
            os.close(fd)

    def request(self, opcode: int, node: int, body: bytes = b"", *, uid: int = 0, gid: int = 0) -> Reply:
        """Send one request and await its reply. Raises TimeoutError, ConnectionError for a daemon that is gone."""
        self._sent += 1
        message = _HEADER.pack(40 + len(body), opcode, self._sent, node, uid, gid, 1, 0) + body
        self._memory[REQUEST : REQUEST + len(message)] = message
        self._memory[REPLY : REPLY + 16] = bytes(16)
        descriptors = struct.pack("<QIHHQIHH", REQUEST, len(message), 1, 1, REPLY, MOST, 2, 0)
        base = QUEUE * AREA
        self._memory[base : base + 32] = descriptors
        available = base + 0x1000
        struct.pack_into("<H", self._memory, available + 4 + 2 * ((self._sent - 1) % SIZE), 0)
        struct.pack_into("<H", self._memory, available + 2, self._sent & 0xFFFF)
        os.eventfd_write(self._kick, 1)
        self._await()
        length, error, _ = _OUT.unpack_from(self._memory, REPLY)
        return Reply(-error, bytes(self._memory[REPLY + 16 : REPLY + max(16, length)]))

    def lookup(self, parent: int, name: bytes) -> Reply:
        """Find an entry."""
        return self.request(LOOKUP, parent, name + b"\0")

    def _await(self) -> None:
        used = QUEUE * AREA + 0x2000
        while struct.unpack_from("<H", self._memory, used + 2)[0] != self._sent & 0xFFFF:
            poll = select.poll()
            poll.register(self._call, select.POLLIN)
            poll.register(self._socket, select.POLLIN)
            ready = dict(poll.poll(ANSWER_TIMEOUT * 1000))
            if self._socket.fileno() in ready:
                raise ConnectionError("the daemon has ended")
            if not ready:
                raise TimeoutError("the daemon does not answer")
            os.eventfd_read(self._call)

    def _set_up(self) -> None:
        self._send(SET_OWNER)
        features = self._ask(GET_FEATURES)
        self._send(SET_FEATURES, struct.pack("<Q", features & (VERSION_1 | PROTOCOL_FEATURES)))
        if features & PROTOCOL_FEATURES:
            self._ask(GET_PROTOCOL_FEATURES)
            self._send(SET_PROTOCOL_FEATURES, struct.pack("<Q", 0))
        table = struct.pack("<IIQQQQ", 1, 0, 0, MEMORY, 0, 0)
        self._send(SET_MEM_TABLE, table, self._memory_fd)
        for queue in range(QUEUES):
            base = queue * AREA
            self._send(SET_VRING_NUM, struct.pack("<II", queue, SIZE))
            self._send(SET_VRING_BASE, struct.pack("<II", queue, 0))
            self._send(SET_VRING_ADDR, struct.pack("<IIQQQQ", queue, 0, base, base + 0x2000, base + 0x1000, 0))
            kick, call = (self._kick, self._call) if queue == QUEUE else self._spare
            self._send(SET_VRING_CALL, struct.pack("<Q", queue), call)
            self._send(SET_VRING_KICK, struct.pack("<Q", queue), kick)
            if features & PROTOCOL_FEATURES:
                self._send(SET_VRING_ENABLE, struct.pack("<II", queue, 1))

    def _send(self, kind: int, payload: bytes = b"", *fds: int) -> None:
        socket.send_fds(self._socket, [struct.pack("<III", kind, 1, len(payload)) + payload], list(fds))

    def _ask(self, kind: int) -> int:
        self._send(kind)
        with self._socket.makefile("rb") as stream:
            number: int = struct.unpack("<Q", stream.read(20)[12:])[0]
        return number

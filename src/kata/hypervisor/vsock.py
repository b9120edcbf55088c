"""A guest CID for AF_VSOCK, held by an open /dev/vhost-vsock. Nothing here talks to a guest.

The kernel keeps a CID for as long as the file descriptor is open, so the descriptor is the reservation; it is
handed to the VMM as `vhostfd`. See vhost_vsock in the kernel (drivers/vhost/vsock.c) and vsock(7).
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Callable, Iterator

import msgspec

from kata.hypervisor.errors import HypervisorError

DEVICE = "/dev/vhost-vsock"
SET_GUEST_CID = 0x4008AF60
"""VHOST_VSOCK_SET_GUEST_CID, `_IOW(0xAF, 0x60, __u64)` of linux/vhost.h."""

FIRST_CID = 3  # 0 is the hypervisor, 1 local, 2 the host (vsock(7))
LAST_CID = 0xFFFFFFFE  # 0xFFFFFFFF is VMADDR_CID_ANY


class GuestCid(msgspec.Struct, frozen=True):
    """A reserved CID and the descriptor that reserves it; whoever gets this owns the descriptor."""

    cid: int
    fd: int


def candidates(start: int) -> Iterator[int]:
    """Every usable CID once: upwards from `start`, then downwards from just below it."""
    yield from range(start, LAST_CID + 1)
    yield from range(start - 1, FIRST_CID - 1, -1)


def random_cid() -> int:
    """Where the search starts: random, because CIDs of a host are one number space for all its tenants."""
    return FIRST_CID + int.from_bytes(os.urandom(8), "little") % (LAST_CID - FIRST_CID + 1)


def set_guest_cid(fd: int, cid: int) -> None:
    """The ioctl itself; OSError(EADDRINUSE) when another VM has this CID."""
    fcntl.ioctl(fd, SET_GUEST_CID, struct.pack("=Q", cid))


def claim_cid(
    start: int | None = None,
    *,
    device: str = DEVICE,
    assign: Callable[[int, int], None] = set_guest_cid,
) -> GuestCid:
    """Reserve a CID that no other VM of this host has.

    Raises HypervisorError when the host has no vhost-vsock or gives no CID.
    """
    try:
        fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise HypervisorError(
            f"{device} cannot be opened: {error.strerror}",
            hint="load the kernel module vhost_vsock, or use the serial transport",
        ) from error
    try:
        return GuestCid(cid=_search(fd, random_cid() if start is None else start, assign), fd=fd)
    except BaseException:
        os.close(fd)
        raise


def _search(fd: int, start: int, assign: Callable[[int, int], None]) -> int:
    for cid in candidates(start):
        try:
            assign(fd, cid)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                continue
            raise HypervisorError(f"the host gives no vsock address: {error.strerror}") from error
        return cid
    raise HypervisorError("every vsock address of this host is in use", hint="stop some sandboxes")

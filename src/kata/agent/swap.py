"""Swap space on disks of the guest's.

Called by the service for AddSwap and AddSwapPath. A disk that is swap space already is used as it is; an empty one
gets the header that mkswap(8) would write; anything else is refused, because somebody's data may be on it.
"""

from __future__ import annotations

import errno
import os
import stat
import struct

from kata.agent.errors import AgentError, BadRequest, Unsupported, WrongState
from kata.linux import syscalls
from kata.linux.fds import read_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from kata.agent.devices.hotplug import Hotplug

PAGE = os.sysconf("SC_PAGE_SIZE")
SIGNATURE = b"SWAPSPACE2"
"""At the end of the first page (include/linux/swap.h, union swap_header)."""
_INFO = struct.Struct("=3I16s")  # version, last page, bad pages, UUID; at byte 1024
_INFO_AT = 1024
_LEAST_PAGES = 10
_LOOKED_AT = 128 << 10
"""Bytes that must be zero for a disk to count as empty: every usual file system and partition table is within."""


class SwapError(AgentError):
    """The kernel refused swap space."""


def add_swap(slots: Sequence[int], hotplug: Hotplug) -> None:
    """Swap on the virtio disk at a PCI path of these slots.

    Raises BadRequest, WrongState, Unsupported, DeviceTimeout, SwapError.
    """
    if not slots:
        raise BadRequest("AddSwap: no PCI path is given")
    _swap_on(hotplug.find_pci_block("/".join(f"{slot:02x}" for slot in slots)))


def add_swap_path(path: str, hotplug: Hotplug) -> None:
    """Swap on the disk at `/dev/<name>`. Raises like `add_swap`."""
    _swap_on(hotplug.find_named_block(path))


def _swap_on(node: str) -> None:
    if is_swap(node):
        return  # the host asks again
    _prepare(node)
    try:
        syscalls.swapon(node)
    except OSError as error:
        if error.errno == errno.ENOSYS:
            raise Unsupported("the guest's kernel has no swap") from error
        raise SwapError(f"{node} cannot be swapped on: {error.strerror}", detail=str(error)) from error


def is_swap(node: str) -> bool:
    """Whether the disk is swapped on now."""
    try:
        lines = read_text("/proc/swaps").splitlines()[1:]
    except FileNotFoundError:
        raise Unsupported("the guest's kernel has no swap") from None
    return node in [line.split()[0] for line in lines]


def _prepare(node: str) -> None:
    """Write the header where there is none. O_EXCL fails for a disk that is mounted or otherwise in use."""
    try:
        fd = os.open(node, os.O_RDWR | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise WrongState(f"{node} is in use, so it cannot be swap space") from error
        raise SwapError(f"{node} cannot be opened: {error.strerror}") from error
    try:
        if not stat.S_ISBLK(os.fstat(fd).st_mode):
            raise BadRequest(f"{node} is no disk")
        begin = os.pread(fd, _LOOKED_AT, 0)
        if begin[PAGE - len(SIGNATURE) : PAGE] == SIGNATURE:
            return
        if any(begin):
            raise BadRequest(f"{node} is neither empty nor swap space", hint="Clear it, or run mkswap on the host.")
        os.pwrite(fd, make_header(os.lseek(fd, 0, os.SEEK_END), os.urandom(16)), 0)
        os.fsync(fd)
    finally:
        os.close(fd)


def make_header(size: int, uuid: bytes) -> bytes:
    """The first page of swap space on a disk of `size` bytes. Raises BadRequest when that is too small."""
    pages = size // PAGE
    if pages < _LEAST_PAGES:
        raise BadRequest(f"{size} bytes are too few for swap space ({_LEAST_PAGES} pages at least)")
    page = bytearray(PAGE)
    _INFO.pack_into(page, _INFO_AT, 1, min(pages - 1, 0xFFFFFFFF), 0, uuid)
    page[-len(SIGNATURE) :] = SIGNATURE
    return bytes(page)

"""tap devices: descriptors through which a VMM is one end of an Ethernet link.

A tap made here is not persistent: the kernel removes it with its last descriptor, so no crash leaves one. Called
by the network room. Source: Documentation/networking/tuntap.rst; include/uapi/linux/if_tun.h.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct

from kata.linux.mounts import detached_mount
from kata.linux.rtnetlink.base import check_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.linux.netns import NetworkNamespace

TUN_DEVICE = "/dev/net/tun"
TUNSETIFF = 0x400454CA
IFF_TAP = 0x0002
IFF_MULTI_QUEUE = 0x0100
IFF_NO_PI = 0x1000
IFF_VNET_HDR = 0x4000
IFF_TUN_EXCL = 0x8000
IFLA_TUN_TYPE, IFLA_TUN_MULTI_QUEUE = 3, 7
"""Attributes of a link of kind `tun`: whether it is 1 (packets) or 2 (Ethernet frames); whether it takes queues."""

_IFREQ = struct.Struct("=16sH22x")  # ifreq: name, flags
_QUEUE_FLAGS = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR


class Queues:
    """Owns the descriptors of a tap, one a queue."""

    def __init__(self) -> None:
        self.fds: tuple[int, ...] = ()

    def close(self) -> None:
        """Close them all. Idempotent."""
        fds, self.fds = self.fds, ()
        for fd in fds:
            os.close(fd)


def open_tap(
    namespace: NetworkNamespace, name: str, queues: int = 1, *, create: bool = True, multi_queue: bool | None = None
) -> Queues:
    """Descriptors of a tap in `namespace`, one a queue, each packet after a virtio-net header.

    With `create` it is a new one, else one that is there, and then `multi_queue` says how that was made. Raises
    OSError: EBUSY when there is one of this name, or one that somebody uses.
    """
    several = queues > 1 if multi_queue is None else multi_queue
    mode = _QUEUE_FLAGS | (IFF_MULTI_QUEUE if several else 0)
    opened = Queues()
    try:
        for queue in range(queues):
            opened.fds += (namespace.call(_open_tun),)
            _set_interface(opened.fds[-1], name, mode | (IFF_TUN_EXCL if create and queue == 0 else 0))
    except BaseException:
        opened.close()
        raise
    return opened


def open_macvtap(namespace: NetworkNamespace, name: str, index: int, queues: int = 1) -> Queues:
    """Descriptors of a macvtap in `namespace`, as `open_tap`.

    Its device node is named after the interface's index, which is unique within one namespace only, and need not
    be there at all. So the device's number is read from a sysfs of that namespace, and the node made where nobody
    else sees it. Raises OSError.
    """
    opened = Queues()
    sysfs = namespace.call(_mount_sysfs)
    try:
        number = _device_number(sysfs, f"class/net/{check_name(name)}/tap{index}/dev")
        for _ in range(queues):
            opened.fds += (_open_device(number),)
            _set_interface(opened.fds[-1], name, _QUEUE_FLAGS | (IFF_MULTI_QUEUE if queues > 1 else 0))
    except BaseException:
        opened.close()
        raise
    finally:
        os.close(sysfs)
    return opened


def macvtap_device(namespace: NetworkNamespace, name: str, index: int) -> int:
    """The number of the device by which a macvtap is opened. Raises OSError."""
    sysfs = namespace.call(_mount_sysfs)
    try:
        return _device_number(sysfs, f"class/net/{check_name(name)}/tap{index}/dev")
    finally:
        os.close(sysfs)


def _open_tun() -> int:
    return os.open(TUN_DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)


def _set_interface(fd: int, name: str, flags: int) -> None:
    try:
        fcntl.ioctl(fd, TUNSETIFF, _IFREQ.pack(os.fsencode(check_name(name)), flags))
    except OSError as error:
        raise OSError(error.errno, f"{name}: {error.strerror}") from None


def _mount_sysfs() -> int:
    return detached_mount("sysfs")


def _device_number(sysfs: int, path: str) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=sysfs)
    try:
        major, _, minor = os.read(fd, 64).decode("ascii").partition(":")
        return os.makedev(int(major), int(minor))
    finally:
        os.close(fd)


def _open_device(number: int) -> int:
    folder = detached_mount("tmpfs")
    try:
        os.mknod("tap", stat.S_IFCHR | 0o600, number, dir_fd=folder)
        return os.open("tap", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=folder)
    finally:
        os.close(folder)

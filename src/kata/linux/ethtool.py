"""What a network interface's driver says about itself, by the ethtool ioctl. Called by the network room.

Source: include/uapi/linux/ethtool.h, struct ethtool_drvinfo.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct

from kata.linux.rtnetlink.base import check_name

SIOCETHTOOL = 0x8946
ETHTOOL_GDRVINFO = 0x3
_SIZE = 196
_BUS_INFO = slice(100, 132)  # after cmd, driver, version and fw_version
_IFREQ = struct.Struct("=16sQ16x")  # ifreq: name, pointer


def bus_info(control: socket.socket, name: str) -> str:
    """Where the device of an interface sits, e.g. "0000:00:03.0"; empty where the driver does not say.

    `control` is any internet socket of the interface's namespace.
    """
    answer = ctypes.create_string_buffer(struct.pack("=I", ETHTOOL_GDRVINFO), _SIZE)
    try:
        request = _IFREQ.pack(os.fsencode(check_name(name)), ctypes.addressof(answer))
        fcntl.ioctl(control, SIOCETHTOOL, request)
    except OSError:  # EOPNOTSUPP: a driver without ethtool operations; ENODEV: gone meanwhile
        return ""
    return answer.raw[_BUS_INFO].partition(b"\0")[0].decode("ascii", "replace")

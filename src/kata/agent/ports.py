"""Where the host reaches this guest: named virtio-serial ports, or ports of vsock.

Called by `__main__` for the API's channel, by `debug` and `logstream` for theirs. Finds addresses; who listens at them
is `kata.protocol.transport`.
"""

from __future__ import annotations

import os
import socket
import time

from kata.agent.errors import AgentError
from kata.linux.fds import read_text

NETLINK_KOBJECT_UEVENT = 15
VIRTIO_CONSOLE = "0x0003"
PORTS = "/sys/class/virtio-ports"
VSOCK = "/dev/vsock"

CHANNEL = "agent.channel.0"
CHANNEL_VSOCK = 1024
DEBUG = "agent.debug.0"
LOG = "agent.log.0"

CHANNEL_TIMEOUT = 10.0
STREAM_TIMEOUT = 2.0
"""Seconds for the name of a port that may not exist at all."""


def channel() -> str:
    """The address of the agent's API. Raises AgentError when the guest has neither kind of port."""
    address = find(CHANNEL, CHANNEL_VSOCK, CHANNEL_TIMEOUT)
    if not address:
        raise AgentError(
            f"there is neither a virtio-serial port named {CHANNEL} nor a vsock device",
            hint="give the VM one of them, or an address by agent.server_addr",
        )
    return address


def find(name: str, vsock_port: int, timeout: float) -> str:
    """The address of the virtio-serial port `name`, else of a vsock port, else "".

    A port's name comes from the VMM by a message of its own, a little after the port: so where there is a virtio
    console, it is waited for. A `vsock_port` of 0 is none.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, NETLINK_KOBJECT_UEVENT) as events:
        events.bind((0, 1))  # before the first look, so that nothing falls between look and wait
        deadline = time.monotonic() + timeout
        while not (address := serial_port(name)):
            left = deadline - time.monotonic()
            if not has_virtio_console() or left <= 0:
                return vsock(vsock_port)
            events.settimeout(left)
            try:
                events.recv(65536)
            except OSError:
                continue  # the timeout, or more events than fit (ENOBUFS): look again
        return address


def serial_port(name: str, ports: str = PORTS) -> str:
    """The serial address of the port with this name, or ""."""
    for port in sorted(os.listdir(ports)) if os.path.isdir(ports) else ():
        try:
            found = read_text(f"{ports}/{port}/name").strip()
        except FileNotFoundError:
            continue  # not named yet
        if found == name:
            return f"serial:///dev/{port}"
    return ""


def has_virtio_console(devices: str = "/sys/bus/virtio/devices") -> bool:
    """Whether the VMM gave us a virtio console, on which the port may still appear."""
    if not os.path.isdir(devices):
        return False
    return any(read_text(f"{devices}/{name}/device").strip() == VIRTIO_CONSOLE for name in os.listdir(devices))


def vsock(port: int) -> str:
    """A vsock port for any CID, "" when it is 0 or the guest has no vsock."""
    return f"vsock://-1:{port}" if port and os.path.exists(VSOCK) else ""

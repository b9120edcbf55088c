"""The block devices of a container's specification: disks that the guest gets, and the messages that go with them.

Called by `containerplan`. The specification keeps the host's numbers; the agent, which alone knows the guest's,
translates them (docs/devices.md). Looks at the host's /sys and /dev and changes nothing.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from kata.protocol.generated import agent_pb2
from kata.sandbox.disks import plug_of
from kata.sandbox.errors import ConfigError
from kata.sandbox.updates import PLUGGED, Plug

if TYPE_CHECKING:
    from kata.oci.spec import LinuxDevice, LinuxDeviceCgroup, Spec

VFIO = "/dev/vfio/"
SYSFS = "/sys"


class DevicePlan(NamedTuple):
    """A disk to plug in, and the device at `container_path` that it becomes."""

    plug: Plug
    container_path: str

    @property
    def message(self) -> agent_pb2.Device:
        """For the agent, without the address."""
        return agent_pb2.Device(type=PLUGGED, id=self.plug.serial, container_path=self.container_path)


def plan_devices(spec: Spec) -> list[DevicePlan]:
    """One plan a block device. Character devices are the guest's own: nothing is done for them.

    Raises ConfigError for a device that the host does not have, and for VFIO.
    """
    linux = spec.get("linux", {})
    rules = linux.get("resources", {}).get("devices", [])
    return [_plan(device, rules) for device in linux.get("devices", []) if _is_block(device)]


def host_path(major: int, minor: int, wanted: str = "") -> str:
    """The node of a block device: what the kernel calls it, else `wanted` if it is that device. Raises ConfigError."""
    for path in filter(None, (_kernel_name(major, minor), wanted)):
        try:
            info = os.stat(path)
        except OSError:
            continue
        if stat.S_ISBLK(info.st_mode) and info.st_rdev == os.makedev(major, minor):
            return path
    raise ConfigError(
        f"this host has no block device {major}:{minor} ({wanted or 'without a name'})",
        hint="the container's specification names it; look whether it was removed meanwhile",
    )


def is_readonly(major: int, minor: int) -> bool:
    """Whether the host itself may only read the device (sysfs-block: ro)."""
    try:
        with open(f"{SYSFS}/dev/block/{major}:{minor}/ro", encoding="ascii") as file:
            return file.read(8).strip() == "1"
    except OSError:
        return False


def _is_block(device: LinuxDevice) -> bool:
    path = device.get("path", "")
    if path.startswith(VFIO) and path != f"{VFIO}vfio":
        raise ConfigError(
            f"the device {path} cannot be given to a container: devices of the host's VFIO are not passed through",
            hint="leave it out",
        )
    return device.get("type") == "b"


def _plan(device: LinuxDevice, rules: list[LinuxDeviceCgroup]) -> DevicePlan:
    major, minor, path = device.get("major", 0), device.get("minor", 0), device.get("path", "")
    readonly = is_readonly(major, minor) or not _may_write(device, rules)
    return DevicePlan(plug_of(host_path(major, minor, path), readonly=readonly), path)


def _may_write(device: LinuxDevice, rules: list[LinuxDeviceCgroup]) -> bool:
    """By the node's mode, and by the last rule that speaks of exactly this device; without one it may."""
    mode = device.get("fileMode")
    if mode is not None and not mode & 0o222:
        return False
    numbers = (device.get("major", 0), device.get("minor", 0))
    said = [rule for rule in rules if rule.get("type") == "b" and (rule.get("major"), rule.get("minor")) == numbers]
    return not said or not said[-1].get("allow") or "w" in said[-1].get("access", "rwm")


def _kernel_name(major: int, minor: int) -> str:
    try:
        with open(f"{SYSFS}/dev/block/{major}:{minor}/uevent", encoding="utf-8", errors="replace") as file:
            names = [line.strip().removeprefix("DEVNAME=") for line in file if line.startswith("DEVNAME=")]
    except OSError:
        return ""
    return f"/dev/{names[0]}" if names else ""

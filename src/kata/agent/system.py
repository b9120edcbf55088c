"""The guest as a whole: clock, random pool, CPUs and memory coming online, kernel modules, facts about it.

Called by `service`. One function a request; each says in OSError or AgentError what the kernel refused.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time

from kata.agent import modules
from kata.agent.errors import AgentError, BadRequest, Unsupported
from kata.linux.fds import read_text, write_all, write_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from kata.linux.reaper import Reaper

RNDADDTOENTCNT = 0x40045201
RNDRESEEDCRNG = 0x5207
CPUS = "/sys/devices/system/cpu"
MEMORY = "/sys/devices/system/memory"
ONLINE_TIMEOUT = 30.0
"""Seconds for CPUs to come; one takes 3.5 s under software emulation."""
MODPROBE_TIMEOUT = 30.0


def reseed_random(data: bytes) -> None:
    """Feed the kernel's random pool and have it used at once (random(4)). Raises BadRequest, OSError."""
    if not data:
        raise BadRequest("ReseedRandomDev: no data")
    fd = os.open("/dev/random", os.O_RDWR | os.O_CLOEXEC)
    try:
        write_all(fd, data)
        fcntl.ioctl(fd, RNDADDTOENTCNT, struct.pack("i", len(data)))
        fcntl.ioctl(fd, RNDRESEEDCRNG)
    finally:
        os.close(fd)


def set_clock(seconds: int, microseconds: int) -> None:
    """Set the wall clock, since the epoch. Raises BadRequest, OSError."""
    if not 0 <= microseconds < 1_000_000 or seconds < 0:
        raise BadRequest(f"SetGuestDateTime: {seconds} s and {microseconds} us are no time")
    time.clock_settime_ns(time.CLOCK_REALTIME, (seconds * 1_000_000 + microseconds) * 1000)


def online_cpus(wanted: int, folder: str = CPUS) -> None:
    """Bring CPUs online until `wanted` are in all; 0 wants nothing.

    Raises AgentError when they do not come.
    """
    deadline = time.monotonic() + ONLINE_TIMEOUT
    while wanted and len(online(folder)) < wanted:
        if not _online_some(folder) and time.monotonic() > deadline:
            raise AgentError(f"{wanted} CPUs are wanted, but only {len(online(folder))} came online")


def _online_some(folder: str) -> bool:
    """Try every offline CPU once; whether one came.

    Each write blocks in the kernel until the CPU is up or not.
    """
    came = False
    for name in os.listdir(folder):
        switch = f"{folder}/{name}/online"
        if name[:3] == "cpu" and name[3:].isdigit() and os.path.exists(switch) and read_text(switch).strip() == "0":
            try:
                write_text(switch, "1")
                came = True
            except OSError:
                continue  # being set up still; the caller tries again until its deadline
    if not came:
        time.sleep(0.05)  # sysfs has no event for a CPU that is about to appear
    return came


def online(folder: str = CPUS) -> list[int]:
    """The numbers of the CPUs that are online."""
    return parse_list(read_text(f"{folder}/online"))


def parse_list(text: str) -> list[int]:
    """The kernel's list format (cpuset(7)): "0-2,5" is 0, 1, 2, 5."""
    numbers: list[int] = []
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first:
            numbers += range(int(first), int(last or first) + 1)
    return numbers


def online_memory(folder: str = MEMORY) -> None:
    """Bring every offline memory block online. Raises OSError."""
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        state = f"{folder}/{name}/state"
        if name.startswith("memory") and os.path.exists(state) and read_text(state).strip() == "offline":
            write_text(state, "online")


def memory_block_size() -> int:
    """Bytes of a memory block, 0 when the kernel has no memory hotplug."""
    try:
        return int(read_text(f"{MEMORY}/block_size_bytes"), 16)
    except OSError:
        return 0


def can_probe_memory() -> bool:
    """Whether memory can be announced by writing its address (some architectures)."""
    return os.path.exists(f"{MEMORY}/probe")


def supports_seccomp() -> bool:
    """Whether the kernel filters system calls."""
    return os.path.exists("/proc/sys/kernel/seccomp/actions_avail")


def security_modules() -> tuple[str, ...]:
    """Which of AppArmor and SELinux are on in this kernel."""
    found = []
    if os.path.exists("/sys/kernel/security/apparmor"):
        found.append("apparmor")
    if os.path.exists("/sys/fs/selinux/enforce"):
        found.append("selinux")
    return tuple(found)


def root_disk() -> tuple[int, int] | None:
    """Major and minor number of the disk with this guest's own root; None when it is in memory."""
    device = os.stat("/").st_dev
    return (os.major(device), os.minor(device)) if os.major(device) else None


def load_module(reaper: Reaper, name: str, parameters: Sequence[str]) -> None:
    """Load a kernel module with its dependencies: one that came with the kernel, else one of the image.

    The image's are loaded by modprobe(8). Raises BadRequest, AgentError.
    """
    try:
        modules.load(name, parameters)
    except Unsupported:
        _modprobe(reaper, name, parameters)


def _modprobe(reaper: Reaper, name: str, parameters: Sequence[str]) -> None:
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    try:
        argv = ["/sbin/modprobe", "-v", "--", name, *parameters]
        code = reaper.run(argv, {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}, null, null, 2).wait(MODPROBE_TIMEOUT)
    except OSError as error:
        raise AgentError(f"the kernel module {name} cannot be loaded: {error}") from error
    finally:
        os.close(null)
    if code != 0:
        raise AgentError(f"the kernel module {name} cannot be loaded: modprobe ended with {code}")

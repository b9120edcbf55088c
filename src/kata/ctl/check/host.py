"""Checks of the host's kernel, resources and rights. Roots are arguments, so that tests bring their own host."""

from __future__ import annotations

import os
import resource
import shutil
from pathlib import Path

from kata.ctl.check.finding import Finding, fail, ok, warn
from kata.sandbox.config import DEFAULT_MEMORY_MIB

OVERHEAD_MIB = 150
"""What QEMU takes beside the guest's memory under TCG (measured; docs/performance.md)."""

DISK_MIB = 1500
"""What set-up and a few images need."""

CAPABILITIES = {0: "CAP_CHOWN", 6: "CAP_SETGID", 7: "CAP_SETUID", 8: "CAP_SETPCAP", 21: "CAP_SYS_ADMIN"}
"""By number (linux/capability.h): what giving QEMU its own user and sharing directories need."""


def rights(status: Path = Path("/proc/self/status")) -> Finding:
    """Root with the capabilities that we use."""
    if os.geteuid() != 0:
        return fail("rights", "not root", "run kata as root")
    effective = int(field(status, "CapEff") or "0", 16)
    missing = [name for number, name in CAPABILITIES.items() if not effective >> number & 1]
    if missing:
        return fail("rights", f"root without {', '.join(missing)}", "run kata with these capabilities")
    return ok("rights", "root")


def memory(meminfo: Path = Path("/proc/meminfo")) -> Finding:
    """Enough for one guest of the default size."""
    available = int((field(meminfo, "MemAvailable") or "0").split()[0]) // 1024
    need = DEFAULT_MEMORY_MIB + OVERHEAD_MIB
    found = f"{available} MiB available; a default container takes up to {need} MiB"
    if available < need:
        return fail("memory", found, "free some memory, or run with a smaller --memory")
    return ok("memory", found)


def disk(name: str, folder: Path, need_mib: int = DISK_MIB) -> Finding:
    """Room where we write."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free >> 20
    found = f"{free} MiB free for {folder}"
    if not os.access(existing, os.W_OK):
        return fail(name, f"{existing} cannot be written to", "mount it writable, or set KATA_DATA_DIR, KATA_STATE_DIR")
    if free < need_mib:
        return warn(name, found, f"{need_mib} MiB are needed for set-up and a few images")
    return ok(name, found)


def cgroups(mountinfo: Path = Path("/proc/self/mountinfo")) -> Finding:
    """Which cgroup hierarchy the host has; any will do, since guests bring their own."""
    kinds = {line.rpartition(" - ")[2].split()[0] for line in _lines(mountinfo) if " - " in line}
    if {"cgroup", "cgroup2"} <= kinds:
        return ok("cgroups", "v1 with a v2 tree beside it (hybrid)")
    if "cgroup2" in kinds:
        return ok("cgroups", "v2")
    if "cgroup" in kinds:
        return ok("cgroups", "v1")
    return warn("cgroups", "none mounted", "limits on the host side need one; guests have their own")


def filesystem(name: str, what_for: str, filesystems: Path = Path("/proc/filesystems")) -> Finding:
    """A file system that the kernel can mount."""
    if any(line.split()[-1:] == [name] for line in _lines(filesystems)):
        return ok(name, "the kernel has it")
    return warn(name, "the kernel does not have it now", f"modprobe {name}: {what_for}")


def device(name: str, path: Path, without: str) -> Finding:
    """A device node that some features would use."""
    if path.exists():
        return ok(name, f"{path} is there")
    return warn(name, f"there is no {path}", without)


def open_files(limit: tuple[int, int] | None = None) -> Finding:
    """RLIMIT_NOFILE: a sandbox takes about 40 descriptors, a share up to one for each open file in it."""
    _, hard = limit or resource.getrlimit(resource.RLIMIT_NOFILE)
    found = "unlimited" if hard == resource.RLIM_INFINITY else str(hard)
    if 0 <= hard < 4096:
        return warn("open files", f"{found} at most", "raise the hard limit (ulimit -Hn) for volumes with many files")
    return ok("open files", f"{found} at most")


def field(path: Path, name: str) -> str:
    """The value of `name:` in a file of such lines; empty without it."""
    for line in _lines(path):
        key, _, value = line.partition(":")
        if key == name:
            return value.strip()
    return ""


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []

"""What `kata env` tells: upstream's fields (shim behaviour, section 13), from the configuration and this host.

Pure but for reading files. Names, nesting and the version of the form are upstream's, so that its tools read it.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING

from kata import paths
from kata.config.guest import kernel_params
from kata.ctl.check.host import field
from kata.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kata.config import Config

FORM = "1.0.27"
"""The version of the form, upstream's newest."""
OCI = "1.0.2"
"""The version of the runtime specification that is understood."""
UNKNOWN = "<<unknown>>"
PROTECTIONS = {
    "sev": "kvm_amd/parameters/sev",
    "snp": "kvm_amd/parameters/sev_snp",
    "tdx": "kvm_intel/parameters/tdx",
}
"""Where the kernel says whether it can protect guests (/sys/module)."""
HYPERVISOR = {
    "MachineType": "machine_type",
    "BlockDeviceDriver": "block_device_driver",
    "EntropySource": "entropy_source",
    "SharedFS": "shared_fs",
    "VirtioFSDaemon": "virtio_fs_daemon",
    "Msize9p": "msize_9p",
    "MemorySlots": "memory_slots",
    "HotPlugVFIO": "hot_plug_vfio",
    "ColdPlugVFIO": "cold_plug_vfio",
    "PCIeRootPort": "pcie_root_port",
    "PCIeSwitchPort": "pcie_switch_port",
    "Debug": "enable_debug",
}
SECURITY = {
    "Rootless": "rootless",
    "DisableSeccomp": "disable_seccomp",
    "GuestHookPath": "guest_hook_path",
    "EnableAnnotations": "enable_annotations",
    "ConfidentialGuest": "confidential_guest",
}
"""Fields that are settings of the hypervisor, by key."""

Table = dict[str, object]


def collect(config: Config, *, capable: bool, program: str, runtime: str) -> Table:
    """All fields. `capable`: containers can run here. `program` is the VMM where no setting names one, `runtime` the
    shim.
    """
    values = config.hypervisor.values
    return {
        "Kernel": {"Path": values["kernel"], "Parameters": " ".join(kernel_params(config))},
        "Meta": {"Version": FORM},
        "Image": {"Path": values["image"]},
        "Initrd": {"Path": values["initrd"]},
        "Hypervisor": _hypervisor(values, program),
        "Runtime": _runtime(config, runtime),
        "Host": _host(capable=capable),
        "Agent": {"Debug": config.agent.enable_debug, "Trace": config.agent.enable_tracing},
    }


def _hypervisor(values: Mapping[str, object], program: str) -> Table:
    return {
        **{field: _plain(values[key]) for field, key in HYPERVISOR.items()},
        "Path": values["path"] or program,
        "Version": qemu_version(str(values["path"] or program)),
        "SocketPath": str(paths.vm_dir() / "{ID}" / "agent.sock"),
        "SecurityInfo": {field: _plain(values[key]) for field, key in SECURITY.items()},
    }


def _runtime(config: Config, runtime: str) -> Table:
    settings = config.runtime.values
    major, minor, patch = (int(part) for part in __version__.split(".")[:3])
    version = {"Semver": __version__, "Commit": "", "Major": major, "Minor": minor, "Patch": patch}
    return {
        "Path": runtime,
        "GuestSeLinuxLabel": settings["guest_selinux_label"],
        "Experimental": _plain(settings["experimental"]),
        "Debug": settings["enable_debug"],
        "Trace": settings["enable_tracing"],
        "DisableGuestSeccomp": settings["disable_guest_seccomp"],
        "DisableNewNetNs": settings["disable_new_netns"],
        "SandboxCgroupOnly": settings["sandbox_cgroup_only"],
        "Config": {"Path": config.path},
        "Version": {"OCI": OCI, "Version": version},
    }


def _host(*, capable: bool) -> Table:
    meminfo = {name: int((field(Path("/proc/meminfo"), name) or "0").split()[0]) for name in MEMORY.values()}
    release = _os_release()
    cpuinfo = Path("/proc/cpuinfo")
    return {
        "AvailableGuestProtections": protections(),
        "Kernel": platform.release(),
        "Architecture": {"x86_64": "amd64"}.get(platform.machine(), platform.machine()),
        "VMContainerCapable": capable,
        "SupportVSocks": os.path.exists("/dev/vhost-vsock"),
        "Distro": {"Name": release.get("NAME", UNKNOWN), "Version": release.get("VERSION_ID", UNKNOWN)},
        "CPU": {
            "Vendor": field(cpuinfo, "vendor_id\t") or UNKNOWN,
            "Model": field(cpuinfo, "model name\t") or UNKNOWN,
            "CPUs": os.cpu_count() or 1,
        },
        "Memory": {name: meminfo[key] for name, key in MEMORY.items()},
    }


MEMORY = {"Total": "MemTotal", "Free": "MemFree", "Available": "MemAvailable"}
"""Names of /proc/meminfo; upstream shows KiB as well."""


def qemu_version(program: str) -> str:
    """The first line of what the VMM says of itself."""
    from kata.linux.process import ProcessError, run

    try:
        lines = run([program, "--version"], timeout=10).stdout.decode(errors="replace").splitlines()
    except ProcessError:
        return UNKNOWN
    return lines[0] if lines else UNKNOWN


def protections(root: Path = Path("/sys/module")) -> list[str]:
    """The kinds of memory encryption that this host's KVM offers to guests."""
    found = []
    for name, parameter in PROTECTIONS.items():
        try:
            if (root / parameter).read_text().strip() in ("Y", "1"):
                found.append(name)
        except OSError:
            continue
    return found or ["none"]


def toml(tables: Mapping[str, object], prefix: str = "") -> str:
    """Tables as TOML: the values of each first, then the tables in it."""
    lines, below = [], []
    for name, value in tables.items():
        if isinstance(value, dict):
            below.append(f"\n[{prefix}{name}]\n{toml(value, f'{prefix}{name}.')}")
        else:
            lines.append(f"{name} = {_toml_value(value)}\n")
    return "".join(lines) + "".join(below)


def _toml_value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_toml_value(item) for item in value)}]"
    if isinstance(value, int):
        return str(value)
    # A basic string (TOML 1.0): controls, quotes and backslashes escaped.
    text = "".join(
        f"\\{char}" if char in '"\\' else char if char.isprintable() else f"\\U{ord(char):08x}" for char in str(value)
    )
    return f'"{text}"'


def _plain(value: object) -> object:
    if isinstance(value, (tuple, frozenset, set)):
        return [str(item) for item in value]
    return value if isinstance(value, (bool, int, str)) else str(value)


def _os_release() -> dict[str, str]:
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}

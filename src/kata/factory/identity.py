"""What makes two templates the same: everything that a saved machine depends on, as one name.

A machine that is restored into another kernel, QEMU or set of devices fails, or worse, does not. So the name is taken
over the files' identities, QEMU's whole command line and this host's processor.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from typing import TYPE_CHECKING

from kata.hypervisor.qemu.command_line import Resolved, command_line
from kata.hypervisor.qemu.devices import ports
from kata.linux.fds import read_text
from kata.linux.process import PATH
from kata.version import __version__

if TYPE_CHECKING:
    from kata.hypervisor.machine import MachineSpec

BINARY = "qemu-system-x86_64"
LENGTH = 24
"""Characters of a name."""
Files = tuple[tuple[str, int, int], ...]


def files_of(template: MachineSpec) -> Files:
    """Path, bytes and time of change (ns) of each file that the machine is made of; a missing one counts as such."""
    hardware = template.hardware
    binary = hardware.program or shutil.which(BINARY, path=PATH) or BINARY
    found = (template.kernel, template.initrd or "", template.image or "", hardware.firmware, binary)
    return tuple(_file(path) for path in found if path)


def current(files: Files) -> Files:
    """What these files are now."""
    return tuple(_file(path) for path, _, _ in files)


def name_of(template: MachineSpec, files: Files, accelerator: str) -> str:
    """The name of the template that this machine would be. Raises SpecError for a machine that cannot be."""
    told = {
        "version": __version__,
        "files": files,
        "argv": _argv(template, accelerator),
        "host": _host(accelerator),
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:LENGTH]


def _argv(template: MachineSpec, accelerator: str) -> list[str]:
    """QEMU's command line, with the same number for every descriptor."""
    resolved = Resolved(
        binary=BINARY,
        accelerator=accelerator,
        qmp_fd=0,
        console_fd=0,
        port_fds=(0,) * len(ports(template)),
        disk_fds=(0,),
    )
    return command_line(template, resolved)


def _host(accelerator: str) -> list[str]:
    """What a guest sees of the host. TCG's processor is the same everywhere; a KVM guest's is the host's own."""
    if accelerator == "tcg":
        return ["tcg"]
    return [accelerator, platform.release(), read_text("/proc/sys/kernel/random/boot_id").strip()]


def _file(path: str) -> tuple[str, int, int]:
    real = os.path.realpath(path)
    try:
        info = os.stat(real)
    except OSError:
        return (real, -1, -1)
    return (real, info.st_size, info.st_mtime_ns)

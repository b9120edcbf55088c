"""The small initrd of a kernel whose drivers are modules: a static shell, the modules, and our first program.

Called by `debian`. The kernel that we build ourselves has everything built in and needs none of this. Nothing of
the guest image belongs here: the initrd works with any image that has /sbin/init.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from kata.kernel import cpio
from kata.kernel.modules import AT_BOOT, DRIVERS, ON_DEMAND, Modules

if TYPE_CHECKING:
    from kata.kernel.asset import Package

APPLETS = ("echo", "insmod", "mount", "mv", "reboot", "sh", "sleep", "switch_root")
FOLDERS = ("bin", "boot-modules", "dev", "modules", "proc", "root", "sys")
FIRST_PROGRAM = Path(__file__).with_name("initrd.sh")


def input_hash(packages: Iterable[Package]) -> str:
    """A hash of what an initrd is made from: packages (in any order), our first program, our lists of modules."""
    digest = hashlib.sha256(FIRST_PROGRAM.read_bytes())
    digest.update(repr((AT_BOOT, ON_DEMAND, DRIVERS)).encode())
    for package in sorted(packages, key=lambda package: package.name):
        digest.update(f"{package.name} {package.version} {package.sha256}\n".encode())
    return digest.hexdigest()


def build(busybox: bytes, modules: Modules) -> bytes:
    """The initrd as the kernel takes it: a cpio archive, compressed."""
    nodes = {name: cpio.directory() for name in FOLDERS}
    nodes["init"] = cpio.file(FIRST_PROGRAM.read_bytes(), 0o755)
    nodes["bin/busybox"] = cpio.file(busybox, 0o755)
    nodes |= {f"bin/{name}": cpio.symlink("busybox") for name in APPLETS}
    # Without a console node the kernel gives the first program no standard streams, and its words are lost.
    nodes["dev/console"] = cpio.character_device(5, 1)
    nodes |= {_place(name, modules): cpio.file(code) for name, code in modules.code.items()}
    nodes["boot-modules/order"] = cpio.file(_lines(modules.at_boot))
    nodes["modules/modules.needs"] = cpio.file(
        _lines(f"{name}: {' '.join(order)}" for name, order in sorted(modules.needs.items()))
    )
    nodes["modules/modules.builtin"] = cpio.file(_lines(modules.built_in))
    nodes["modules/virtio.map"] = cpio.file(_driver_map(modules))
    return cpio.compress(cpio.archive(nodes))


def _place(name: str, modules: Modules) -> str:
    return f"boot-modules/{name}.ko" if name in modules.at_boot else f"modules/{name}.ko"


def _driver_map(modules: Modules) -> bytes:
    """`<virtio device type as sysfs shows it> <modules in order>`, one type a line."""
    known = {
        kind: [entry for name in names for entry in modules.needs.get(name, ())] for kind, names in DRIVERS.items()
    }
    return _lines(f"0x{kind:04x} {' '.join(dict.fromkeys(order))}" for kind, order in sorted(known.items()) if order)


def _lines(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()

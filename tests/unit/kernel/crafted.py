"""Debian packages and kernel modules made by hand, small and with known content."""

from __future__ import annotations

import lzma
import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path


def module(**info: str) -> bytes:
    """An ELF64 object with nothing but a `.modinfo` section, as `modinfo` reads it."""
    payload = b"".join(f"{key}={value}".encode() + b"\0" for key, value in info.items())
    names = b"\0.modinfo\0.shstrtab\0"
    start = 64
    table = start + len(payload) + len(names)
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, table, 0, 64, 0, 0, 64, 3, 2
    )
    sections = (
        struct.pack("<IIQQQQIIQQ", 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
        + struct.pack("<IIQQQQIIQQ", 1, 1, 2, 0, start, len(payload), 0, 0, 1, 0)
        + struct.pack("<IIQQQQIIQQ", 10, 3, 0, 0, start + len(payload), len(names), 0, 0, 1, 0)
    )
    return header + payload + names + sections


def package(folder: Path, name: str, files: Mapping[str, bytes | str], version: str = "1.0-1") -> Path:
    """A .deb under the name that apt would give it. A file's content as text makes a symbolic link to it."""
    tree = folder / f"{name}.tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(
        f"Package: {name}\nVersion: {version}\nArchitecture: amd64\n"
        "Maintainer: nobody <n@example.org>\nDescription: test\n"
    )
    for path, content in files.items():
        place = tree / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            place.symlink_to(content)
        else:
            place.write_bytes(content)
            place.chmod(0o755 if b"\x7fELF" in content[:4] else 0o644)
    deb = folder / f"{name}_{version.replace(':', '%3a')}_amd64.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "--build", str(tree), str(deb)], check=True, capture_output=True, timeout=60
    )
    return deb


RELEASE = "6.12.9+deb12-amd64"
MODULES = {
    "drivers/block/virtio_blk": module(name="virtio_blk"),
    "crypto/crc32c_generic": module(name="crc32c_generic"),
    "lib/libcrc32c": module(name="libcrc32c"),
    "fs/erofs/erofs": module(name="erofs", depends="libcrc32c"),
    "fs/overlayfs/overlay": module(name="overlay"),
    "net/core/failover": module(name="failover"),
    "drivers/net/net_failover": module(name="net_failover", depends="failover"),
    "drivers/net/virtio_net": module(name="virtio_net", depends="net_failover"),
    "drivers/char/virtio-rng": module(name="virtio_rng"),
    "net/9p/9pnet": module(name="9pnet"),
    "net/9p/9pnet_virtio": module(name="9pnet_virtio", depends="9pnet"),
    "fs/9p/9p": module(name="9p", depends="9pnet"),
    "drivers/gpu/unrelated": module(name="unrelated"),
}


def kernel_package(folder: Path) -> Path:
    """A kernel package as Debian lays it out, with compressed modules."""
    base = f"lib/modules/{RELEASE}"
    files: dict[str, bytes | str] = {
        f"boot/vmlinuz-{RELEASE}": b"a kernel" * 100,
        f"{base}/modules.builtin": b"kernel/drivers/char/virtio_console.ko\nkernel/fs/fuse/virtiofs.ko\n",
    }
    files |= {f"{base}/kernel/{path}.ko.xz": lzma.compress(code) for path, code in MODULES.items()}
    return package(folder, f"linux-image-{RELEASE}", files, "6.12.9-1")

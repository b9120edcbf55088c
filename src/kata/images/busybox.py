"""A small image without a registry: Debian's static busybox with a link for each of its commands.

Called by the store for `apt://busybox-static`. The same binary gives the same digest: times, order and owners are
fixed. Commands are hard links, so that a container can mount a file over one of them without covering all.
"""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
from pathlib import Path, PurePosixPath

from kata.images import directory, layout
from kata.images.errors import ImageError
from kata.images.workspace import Progress
from kata.linux import process

PACKAGE = "busybox-static"
INSTALLED = Path("/bin/busybox")
DIRECTORIES = {
    "bin": 0o755, "dev": 0o755, "etc": 0o755, "home": 0o755, "proc": 0o555, "root": 0o700, "run": 0o755,
    "sbin": 0o755, "sys": 0o555, "tmp": 0o1777, "usr": 0o755, "usr/bin": 0o755, "usr/sbin": 0o755, "var": 0o755,
    "var/tmp": 0o1777,
}  # fmt: skip
FILES = {
    "etc/group": b"root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
    "etc/hostname": b"",
    "etc/hosts": b"127.0.0.1\tlocalhost\n::1\tlocalhost\n",
    "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
    "etc/resolv.conf": b"",
}
PT_INTERP = 3


def build(work: Path, progress: Progress, installed: Path = INSTALLED) -> Path:
    """A layout in `work` with the busybox image. Raises ImageError, ProcessError."""
    binary = installed if is_static(installed) else _download(work, progress)
    progress("making the busybox image")
    applets = process.run([str(binary), "--list-full"], timeout=10).stdout.decode("ascii").split()
    plain = write_layer(binary.read_bytes(), applets)
    layer = work / "layer.tar.gz"
    layer.write_bytes(gzip.compress(plain, 6, mtime=0))
    return directory.write_image(work / "layout", layer, f"{layout.LAYER_TYPE}+gzip", ("sh",), diff_id=_digest(plain))


def is_static(path: Path) -> bool:
    """Whether `path` is an ELF program without an interpreter (elf(5), 64 bits): it needs no library."""
    try:
        data = path.read_bytes()
    except OSError:
        return False
    if data[:5] != b"\x7fELF\x02" or len(data) < 64:
        return False
    offset, size, count = struct.unpack_from("<Q", data, 32)[0], *struct.unpack_from("<HH", data, 54)
    headers = range(offset, offset + size * count, size) if size else ()
    return all(struct.unpack_from("<I", data, at)[0] != PT_INTERP for at in headers)


def write_layer(binary: bytes, applets: list[str]) -> bytes:
    """The layer as an uncompressed tar archive; `applets` are paths such as `usr/bin/awk`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, mode in sorted(DIRECTORIES.items()):
            _add(archive, name, mode, tarfile.DIRTYPE)
        _add(archive, "bin/busybox", 0o755, tarfile.REGTYPE, binary)
        for name in sorted(set(applets) - {"bin/busybox"}):
            if str(PurePosixPath(name).parent) in DIRECTORIES:
                _add(archive, name, 0o755, tarfile.LNKTYPE)
        for name, content in sorted(FILES.items()):
            _add(archive, name, 0o644, tarfile.REGTYPE, content)
    return buffer.getvalue()


def _add(archive: tarfile.TarFile, name: str, mode: int, kind: bytes, content: bytes = b"") -> None:
    member = tarfile.TarInfo(name)
    member.mode, member.type, member.size = mode, kind, len(content)
    if kind == tarfile.LNKTYPE:
        member.linkname = "bin/busybox"
    archive.addfile(member, io.BytesIO(content))


def _download(work: Path, progress: Progress) -> Path:
    """The binary out of Debian's package, which is not installed; apt checks its signature and digest."""
    progress(f"downloading the Debian package {PACKAGE}")
    process.run(["apt-get", "-o", "APT::Sandbox::User=root", "download", PACKAGE], timeout=300, cwd=str(work))
    packages = list(work.glob(f"{PACKAGE}_*.deb"))
    if len(packages) != 1:
        raise ImageError(f"apt-get gave no package {PACKAGE}", hint=f"apt-get update && apt-get install {PACKAGE}")
    process.run(["dpkg-deb", "--extract", str(packages[0]), str(work / PACKAGE)], timeout=60)
    for binary in (work / PACKAGE / "bin/busybox", work / PACKAGE / "usr/bin/busybox"):
        if is_static(binary):
            return binary
    raise ImageError(f"the Debian package {PACKAGE} has no static busybox")


def _digest(data: bytes) -> str:
    import hashlib

    return f"sha256:{hashlib.sha256(data).hexdigest()}"

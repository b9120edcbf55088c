"""The kernel's source, from Debian's source package, without the two thirds that a virtual machine never uses.

Called by `compilation`. What is left out are code files only: every Kconfig file and Makefile stays, as Kconfig reads
them all.
"""

from __future__ import annotations

import lzma
import shutil
import tarfile
from pathlib import Path

from kata.kernel import packages
from kata.kernel.errors import PackageError

ARCHIVE = ".tar.xz"
LEFT_OUT = (
    "Documentation/",
    "drivers/accel/",
    "drivers/comedi/",
    "drivers/gpu/",
    "drivers/iio/",
    "drivers/infiniband/",
    "drivers/media/",
    "drivers/net/ethernet/",
    "drivers/net/wireless/",
    "drivers/staging/",
    "samples/",
    "sound/",
    "tools/perf/",
    "tools/testing/",
)
"""Folders whose code no fragment of ours can ask for."""
KEPT_NAMES = ("Kconfig", "Makefile", "Kbuild", "Build")
ARCHITECTURE = "x86"


def is_wanted(path: str) -> bool:
    """Whether the file `path` (below the source's top folder) is needed for a build."""
    if path.rpartition("/")[2].startswith(KEPT_NAMES):
        return True
    if path.startswith("arch/"):
        return path.startswith(f"arch/{ARCHITECTURE}/")
    if path.startswith("tools/arch/"):
        return path.startswith(f"tools/arch/{ARCHITECTURE}/")
    return not path.startswith(LEFT_OUT)


def unpack(deb: Path, folder: Path) -> Path:
    """Unpack the source in the package `deb` into `folder`; returns its top folder.

    Raises PackageError when the package holds no source.
    """
    top = ""
    with packages.contents(deb) as outer:
        for member in outer:
            stream = outer.extractfile(member) if member.isreg() and member.name.endswith(ARCHIVE) else None
            if stream is None or "/linux-source-" not in member.name:
                continue
            with lzma.open(stream) as plain, tarfile.open(fileobj=plain, mode="r|") as inner:
                top = _unpack_all(inner, folder)
    if not top:
        raise PackageError(f"the package {deb.name} holds no kernel source")
    return folder / top


def _unpack_all(archive: tarfile.TarFile, folder: Path) -> str:
    top = ""
    for member in archive:
        head, _, path = member.name.removeprefix("./").partition("/")
        if ".." in (head, *path.split("/")):
            raise PackageError(f"the kernel source holds the path {member.name}")
        top = top or head
        if path and is_wanted(path):
            _write(archive, member, folder / head / path)
    return top


def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, place: Path) -> None:
    if member.isdir():
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    if member.issym():
        place.symlink_to(member.linkname)
    elif member.isreg():
        stream = archive.extractfile(member)
        assert stream is not None
        with place.open("wb") as out:
            shutil.copyfileobj(stream, out)
        place.chmod(member.mode & 0o755 | 0o600)

"""Which virtiofsd this host has, and its argv. Pure, but for looking whether the programs are there.

There are two: the Rust one, and the C one that came with QEMU until 7.2. Both are always started with their
namespace sandbox and seccomp filter; no value of a user ever becomes an option.
"""

from __future__ import annotations

import os
import shutil
from typing import Literal

import msgspec

from kata.linux.process import PATH
from kata.storage.errors import DaemonError

Flavour = Literal["rust", "c"]
Cache = Literal["never", "metadata", "auto", "always"]
"""What a guest may keep of what it has seen."""

PLACES: tuple[tuple[str, Flavour], ...] = (
    ("/usr/libexec/virtiofsd", "rust"),
    ("/usr/lib/qemu/virtiofsd", "c"),
)

VERSION_TIMEOUT = 10.0
C_CACHE: dict[Cache, str] = {"never": "none", "auto": "auto", "always": "always"}
"""The C one's words."""


class Daemon(msgspec.Struct, frozen=True):
    """A virtiofsd program and which of the two it is."""

    path: str
    flavour: Flavour


def find_daemon(places: tuple[tuple[str, Flavour], ...] = PLACES, path: str = PATH) -> Daemon:
    """The virtiofsd to use: the Rust one where there is one. Raises DaemonError when there is none."""
    for place, flavour in places:
        if os.access(place, os.X_OK):
            return Daemon(place, flavour)
    found = shutil.which("virtiofsd", path=path)
    if found is None:
        raise DaemonError("virtiofsd is not installed", hint="apt-get install qemu-system-common")
    return Daemon(found, "rust")


def named_daemon(path: str) -> Daemon:
    """The virtiofsd at this path; which of the two it is it says itself. Raises DaemonError."""
    if not os.access(path, os.X_OK) or not os.path.isfile(path):
        raise DaemonError(f"there is no virtiofsd at {path}", hint="correct virtio_fs_daemon, or leave it empty")
    known = next((flavour for place, flavour in PLACES if os.path.realpath(place) == os.path.realpath(path)), None)
    if known is not None:
        return Daemon(path, known)
    from kata.linux.process import run

    # The C one has three lines, that of its FUSE interface among them; the other has its name and number alone.
    said = run([path, "--version"], timeout=VERSION_TIMEOUT).stdout
    return Daemon(path, "c" if b"FUSE" in said else "rust")


def daemon_argv(daemon: Daemon, *, tree: str, listener_fd: int, cache: Cache = "auto") -> list[str]:
    """The argv that exports `tree` to whoever connects to the listening socket `listener_fd`.

    The limit on open files is left as it is (0): raising it takes CAP_SYS_RESOURCE, which a container host may
    not give. Submounts are announced, because volumes of several file systems share one export, and their
    inode numbers would else be mixed up in the guest. CAP_MKNOD is dropped: a device node that a guest makes
    in a writable volume would be a real one for every process of the host. Raises DaemonError.
    """
    if daemon.flavour == "rust":
        return [
            daemon.path,
            *("--fd", str(listener_fd), "--shared-dir", tree),
            *("--sandbox", "namespace", "--seccomp", "kill", "--modcaps=-mknod"),
            *("--cache", cache, "--rlimit-nofile", "0"),
            *("--announce-submounts", "--log-level", "warn"),
        ]
    if cache not in C_CACHE:
        raise DaemonError(
            f"{daemon.path} is the virtiofsd of QEMU, which has no cache {cache!r}",
            hint='set virtio_fs_cache to "never", "auto" or "always", or install the virtiofsd that is written in Rust',
        )
    return [
        daemon.path,
        "-f",
        f"--fd={listener_fd}",
        "--rlimit-nofile=0",
        *("-o", f"source={tree}"),
        *("-o", "sandbox=namespace,modcaps=-mknod"),
        *("-o", f"cache={C_CACHE[cache]},announce_submounts,no_posix_lock,no_flock,log_level=warn"),
    ]

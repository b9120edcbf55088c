"""A guest's kernel that keeps to no rule, against the daemon that shares files with it: `RawFuse`, a real virtiofsd.

What a guest may write to is `v0`, `v1` is the same folder read-only, and `secret` is beside both. What the daemon sees:
tests/kernel/test_virtiofs.py; 9p's helper: tests/kernel/test_ninep.py.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from kata.storage.virtiofs import VirtiofsShare
from tests.helpers import rawfuse
from tests.helpers.rawfuse import ROOT, RawFuse, Reply
from tests.helpers.share import Volume, share_volumes

pytestmark = pytest.mark.root

USER = 1000
SPECIAL = [
    pytest.param(stat.S_IFBLK, os.makedev(8, 0), id="a disk"),
    pytest.param(stat.S_IFCHR, os.makedev(1, 1), id="memory"),
    pytest.param(stat.S_IFCHR, os.makedev(10, 232), id="kvm"),
]


class Guest(NamedTuple):
    """A guest's end of a share, and the host's folder behind it."""

    fuse: RawFuse
    share: VirtiofsShare
    source: Path

    @property
    def mine(self) -> int:
        """The inode of the folder for writing."""
        return self.fuse.lookup(ROOT, b"v0").node

    @property
    def readonly(self) -> int:
        """The inode of the other."""
        return self.fuse.lookup(ROOT, b"v1").node

    def open(self, node: int, flags: int) -> Reply:
        return self.fuse.request(rawfuse.OPEN, node, struct.pack("<II", flags, 0))

    def create(self, parent: int, name: bytes, mode: int = 0o644, *, uid: int = 0, gid: int = 0) -> Reply:
        body = struct.pack("<IIII", os.O_RDWR | os.O_CREAT | os.O_TRUNC, mode, 0, 0) + name + b"\0"
        return self.fuse.request(rawfuse.CREATE, parent, body, uid=uid, gid=gid)

    def mknod(self, parent: int, name: bytes, mode: int, device: int) -> Reply:
        return self.fuse.request(rawfuse.MKNOD, parent, struct.pack("<IIII", mode, device, 0, 0) + name + b"\0")

    def write(self, node: int, handle: int) -> Reply:
        return self.fuse.request(rawfuse.WRITE, node, struct.pack("<QQIIQII", handle, 0, 4, 0, 0, 0, 0) + b"evil")


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    """Afterwards what is beside the volumes is as it was, and the daemon has gone."""
    source = tmp_path / "source"
    for folder in (tmp_path / "sandbox", source, tmp_path / "beside"):
        folder.mkdir(mode=0o700)
    source.chmod(0o777)
    secret = tmp_path / "beside/secret"
    secret.write_text("precious\n")
    (source / "file").write_text("hello")
    targets = {"up": "../beside/secret", "out": str(secret), "folder": "../beside", "new": f"{secret}2"}
    for name, target in targets.items():
        (source / name).symlink_to(target)
    before = (secret.stat().st_mode, secret.stat().st_mtime_ns, sorted(os.listdir(secret.parent)))
    with share_volumes([Volume(source, readonly=False), Volume(source)], tmp_path / "sandbox") as share:
        with RawFuse(share.socket_path) as fuse:
            yield Guest(fuse, share, source)
        assert secret.read_text() == "precious\n"
        assert (secret.stat().st_mode, secret.stat().st_mtime_ns, sorted(os.listdir(secret.parent))) == before


def test_cve_2026_47243_how_the_daemon_is_started(guest: Guest) -> None:
    """CVE-2026-47243: it ran without sandbox and filter. The words of its command line are these, and no others."""
    words = Path(f"/proc/{guest.share.pid}/cmdline").read_bytes().decode().rstrip("\0").split("\0")
    options = {option for word in words if "=" in word or "," in word for option in word.split(",")}
    assert "sandbox=none" not in options and "--sandbox=none" not in words
    assert not [word for word in words if word.startswith("--seccomp")] or "--seccomp=kill" in words
    assert not any(word.startswith("modcaps") and "+" in word for word in options)
    children = Path(f"/proc/{guest.share.pid}/task/{guest.share.pid}/children").read_text().split()
    pid = children[-1]  # the one that serves
    status = dict(line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
    assert status["Seccomp"] == "2"
    assert int(status["CapEff"], 16) & (1 << 21 | 1 << 27) == 0, "neither CAP_SYS_ADMIN nor CAP_MKNOD"
    for kind in ("mnt", "net", "pid"):
        assert os.stat(f"/proc/{pid}/ns/{kind}").st_ino != os.stat(f"/proc/self/ns/{kind}").st_ino


@pytest.mark.parametrize("name", [b"../beside", b"v0/file", b"/etc/passwd", b"../../../../../etc", b"x" * 5000, b""])
def test_cve_2020_2026_names_that_are_paths(guest: Guest, name: bytes) -> None:
    """No kernel would send them. Neither is anything found, nor made, nor removed by such a name."""
    for parent in (ROOT, guest.mine):
        assert guest.fuse.lookup(parent, name).error
        assert guest.create(parent, name).error
        for opcode in (rawfuse.UNLINK, rawfuse.RMDIR):
            assert guest.fuse.request(opcode, parent, name + b"\0").error
        assert guest.fuse.request(rawfuse.MKDIR, parent, struct.pack("<II", 0o777, 0) + name + b"\0").error
        assert guest.fuse.request(rawfuse.SYMLINK, parent, name + b"\0/etc\0").error
        assert guest.fuse.request(rawfuse.RENAME, parent, struct.pack("<Q", parent) + b"file\0" + name + b"\0").error


def test_cve_2020_2024_above_the_root_is_the_root(guest: Guest) -> None:
    """`..` leads no further up than to the tree, from wherever it is asked for."""
    top = guest.fuse.lookup(ROOT, b"..")
    again = guest.fuse.lookup(top.node, b"..") if not top.error else top
    for reply in (top, again, guest.fuse.lookup(guest.mine, b"..")):
        if not reply.error:
            assert guest.fuse.lookup(reply.node, b"v0").error == 0, "the tree itself"
            assert guest.fuse.lookup(reply.node, b"etc").error


@pytest.mark.parametrize("name", [b"up", b"out", b"folder", b"new"])
def test_cve_2020_2024_links_are_followed_by_nobody(guest: Guest, name: bytes) -> None:
    """CVE-2020-2024's class: links that lead out are text for a guest; they are opened, written to, changed as such."""
    link = guest.fuse.lookup(guest.mine, name)
    assert stat.S_ISLNK(link.mode)
    for flags in (os.O_RDONLY, os.O_RDWR, os.O_RDWR | os.O_TRUNC):
        assert guest.open(link.node, flags).error
    assert guest.create(guest.mine, name).error
    assert guest.fuse.request(rawfuse.OPENDIR, link.node, struct.pack("<II", 0, 0)).error
    assert guest.fuse.lookup(link.node, b"secret").error
    assert guest.create(link.node, b"made").error
    # SETATTR of the mode (FATTR_MODE, 1), then of the size (FATTR_SIZE, 8).
    for valid in (1, 8):
        body = struct.pack("<IIQQQQQQIIIIIIII", valid, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0o100777, 0, USER, USER, 0)
        guest.fuse.request(rawfuse.SETATTR, link.node, body)
    guest.fuse.request(rawfuse.LINK, guest.mine, struct.pack("<Q", link.node) + b"hard\0")
    if os.path.lexists(guest.source / "hard"):
        assert (guest.source / "hard").is_symlink(), "a second name of the link, and not of what it leads to"


@pytest.mark.parametrize(("kind", "device"), SPECIAL)
def test_cve_2020_35517_device_nodes(guest: Guest, kind: int, device: int) -> None:
    """CVE-2020-35517: root in the guest makes a node in the share, and opens the host's device by it."""
    made = guest.mknod(guest.mine, b"node", kind | 0o666, device)
    assert made.error == 1, "EPERM: the daemon has no CAP_MKNOD"
    os.mknod(guest.source / "there", kind | 0o666, device)  # by another program of the host
    there = guest.fuse.lookup(guest.mine, b"there")
    for flags in (os.O_RDONLY, os.O_RDWR):
        assert there.error or guest.open(there.node, flags).error


def test_pipes_and_sockets_hold_nobody_up(guest: Guest) -> None:
    """Opening a pipe waits for the other end: for the guest's thread, not for the daemon's."""
    os.mkfifo(guest.source / "pipe")
    pipe = guest.fuse.lookup(guest.mine, b"pipe")
    guest.open(pipe.node, os.O_RDONLY)
    assert guest.fuse.lookup(guest.mine, b"file").error == 0


def test_cve_2022_0358_groups_of_files(guest: Guest) -> None:
    """CVE-2022-0358: in a folder with a group of its own, a user who is not in it made programs that run as it."""
    shared = guest.source / "shared"
    shared.mkdir()
    os.chown(shared, 0, 7)
    shared.chmod(0o2777)
    folder = guest.fuse.lookup(guest.mine, b"shared").node
    made = guest.create(folder, b"program", 0o2755, uid=USER, gid=USER)
    assert made.error == 0
    info = (shared / "program").stat()
    assert (info.st_uid, info.st_gid) == (USER, 7)
    assert not info.st_mode & stat.S_ISGID


def test_a_folder_that_is_read_only_on_the_host(guest: Guest) -> None:
    """Read-only is the host's: whatever the guest asks for is an error, and nothing is other than before."""
    before = [(path.name, path.lstat().st_mode, path.lstat().st_mtime_ns) for path in sorted(guest.source.iterdir())]
    parent = guest.readonly
    file = guest.fuse.lookup(parent, b"file").node
    assert guest.open(file, os.O_RDWR).error and guest.open(file, os.O_WRONLY | os.O_TRUNC).error
    assert guest.create(parent, b"made").error
    assert guest.mknod(parent, b"made", stat.S_IFREG | 0o644, 0).error
    for opcode, body in (
        (rawfuse.UNLINK, b"file\0"),
        (rawfuse.MKDIR, struct.pack("<II", 0o755, 0) + b"made\0"),
        (rawfuse.SYMLINK, b"made\0/etc\0"),
        (rawfuse.RENAME, struct.pack("<Q", parent) + b"file\0other\0"),
        (rawfuse.LINK, struct.pack("<Q", file) + b"other\0"),
    ):
        assert guest.fuse.request(opcode, parent, body).error
    reading = guest.open(file, os.O_RDONLY)
    assert reading.error == 0
    assert guest.write(file, reading.handle).error, "what was opened for reading cannot be written to"
    other = guest.fuse.request(rawfuse.LINK, guest.mine, struct.pack("<Q", file) + b"other\0")
    assert other.error, "no second name for it in a folder that can be written to"
    after = [(path.name, path.lstat().st_mode, path.lstat().st_mtime_ns) for path in sorted(guest.source.iterdir())]
    assert after == before


@pytest.mark.parametrize("opcode", [*range(1, 53), 4096, 0xFFFFFFFF])
def test_requests_of_garbage(guest: Guest, opcode: int) -> None:
    """Too short, of nodes and handles that never were. An error; or the daemon ends, and its sandbox with it."""
    mine = guest.mine
    try:
        for body in (b"", b"\xff" * 7, b"\xff" * 64, bytes(200)):
            for node in (mine, 0, 1 << 40, 0xFFFFFFFFFFFFFFFF):
                if opcode not in (rawfuse.FORGET, 42):  # which have no answer
                    guest.fuse.request(opcode, node, body)
    except (ConnectionError, TimeoutError):
        return
    assert guest.share.running()

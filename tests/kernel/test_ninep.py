"""The share by 9p with the kernel's real mounts, QEMU's real helper and its filter, but without a VM."""

from __future__ import annotations

import os
import signal
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata.linux import seccomp
from kata.sandbox import sharing
from kata.sandbox.config import SandboxMount, SharedFs, Sharing
from kata.sandbox.updates import SANDBOX_MOUNTS
from kata.storage.errors import DaemonError, VolumeError
from kata.storage.ninep import NinePShare, start_ninep

pytestmark = pytest.mark.root

CAPABILITIES = {0: "chown", 1: "dac_override", 3: "fowner", 4: "fsetid", 6: "setgid", 7: "setuid", 27: "mknod"}
"""What the helper keeps (virtfs-proxy-helper(1)); mknod is of no use to it under the filter."""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "sandbox"
    path.mkdir(mode=0o700)
    before = sorted(os.listdir("/proc/self/fd"))
    yield path
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert list(path.iterdir()) == []


def test_the_helper_sees_the_tree_and_little_else(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_text("hello")
    with start_ninep(str(folder)) as share:
        share.add("box/rootfs", str(tmp_path / "source"), readonly=True)
        # It has confined itself when it answers: type 20 (statfs of 9P2000.L's proxy) of "/" is asked for.
        ask(share)
        root = Path(f"/proc/{share.pid}/root")
        assert os.listdir(root) == ["box"]
        assert (root / "box/rootfs/file").read_text() == "hello"
        with pytest.raises(OSError, match="Read-only file system"):
            (root / "box/rootfs/new").write_text("x")
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{share.pid}/status").read_text().splitlines())
        assert status["Seccomp"].strip() == "2" and status["NoNewPrivs"].strip() == "1"
        kept = {bit for bit in range(64) if int(status["CapPrm"], 16) >> bit & 1}
        assert kept <= set(CAPABILITIES)
        share.remove("box/rootfs")


def ask(share: NinePShare) -> None:
    """One request in the helper's form: a header of two numbers, then a path (QEMU, hw/9pfs/9p-proxy.h: T_LSTAT)."""
    peer = socket.socket(fileno=os.dup(share.proxy_fd))
    peer.settimeout(10)
    body = (1).to_bytes(2, "little") + b"/"
    with peer:
        peer.sendall((6).to_bytes(4, "little") + len(body).to_bytes(4, "little") + body)
        assert peer.recv(8)


@pytest.mark.parametrize("way", ["virtio-fs", "virtio-9p"])
def test_what_the_operator_shows_to_every_guest(way: SharedFs, folder: Path, tmp_path: Path) -> None:
    for name in ("seen", "written"):
        (tmp_path / name).mkdir()
    mounts = (SandboxMount(str(tmp_path / "seen")), SandboxMount(str(tmp_path / "written"), readonly=False))
    share, exports = sharing.start(Sharing(way=way, mounts=mounts), str(folder))
    with share:
        tree = Path(f"/proc/{share.pid}/root{share.tree}/{SANDBOX_MOUNTS}")
        (tree / "written/file").write_text("x")
        with pytest.raises(OSError, match="Read-only file system"):
            (tree / "seen/file").write_text("x")
        assert (len(exports.virtiofs), len(exports.ninep)) == ((1, 0) if way == "virtio-fs" else (0, 1))
        assert folder.joinpath("shared", SANDBOX_MOUNTS).is_dir()
    with pytest.raises(VolumeError):
        sharing.start(Sharing(way=way, mounts=(SandboxMount("/nonexistent"),)), str(folder))


def test_its_death_is_seen_and_its_end_leaves_nothing(folder: Path) -> None:
    share = start_ninep(str(folder))
    os.kill(share.pid, signal.SIGKILL)
    share.wait()
    assert not share.running()
    share.close()
    share.close()


def test_without_a_helper(folder: Path) -> None:
    with pytest.raises(DaemonError, match="needs QEMU's virtfs-proxy-helper") as caught:
        start_ninep(str(folder), helper="/nonexistent")
    assert "virtio-fs" in caught.value.hint


def refused(call: str) -> str:
    """What a call ends with in a process with the filter: its error, or nothing."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        said = b"died"
        try:
            seccomp.install(seccomp.program(seccomp.NUMBERS))
            exec(call)
            said = b"done"
        except OSError as error:
            said = (error.strerror or "").encode()
        finally:
            os.write(write_end, said)
            os._exit(0)
    os.close(write_end)
    os.waitpid(child, 0)
    with open(read_end, "rb") as pipe:
        return pipe.read().decode()


@pytest.mark.parametrize(
    ("call", "end"),
    [
        ("os.kill(os.getpid(), 0)", "Operation not permitted"),
        ("socket.socket()", "Operation not permitted"),
        ("os.pidfd_open(1)", "Operation not permitted"),
        ("os.mknod({path!r}, stat.S_IFCHR | 0o600, os.makedev(1, 3))", "Operation not permitted"),
        ("os.mknod({path!r}, stat.S_IFBLK | 0o600, os.makedev(7, 0))", "Operation not permitted"),
        ("os.mkfifo({path!r})", "done"),
        ("os.mknod({path!r}, stat.S_IFSOCK | 0o600)", "done"),
        ("open({path!r}, 'w').close(); os.chown({path!r}, 1, 1)", "done"),
    ],
)
def test_what_the_filter_refuses(call: str, end: str, tmp_path: Path) -> None:
    assert refused(call.format(path=str(tmp_path / "node"))) == end
    assert stat  # used by the calls

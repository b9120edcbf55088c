"""The share process with the kernel's real mounts and the real virtiofsd, but without a VM."""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from kata.linux.mounts import own_namespace
from kata.storage.daemon import Daemon
from kata.storage.errors import DaemonError, VolumeError
from kata.storage.virtiofs import VirtiofsShare, start_share
from tests.helpers.share import Volume, share_volumes

pytestmark = pytest.mark.root


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """The sandbox's folder; checks that nothing stays in it, in our mounts, descriptors or children."""
    path = tmp_path / "sandbox"
    path.mkdir(mode=0o700)
    before = (_mounts(), sorted(os.listdir("/proc/self/fd")), _children())
    yield path
    assert (_mounts(), sorted(os.listdir("/proc/self/fd")), _children()) == before
    assert list(path.iterdir()) == []


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.mkdir()
    (path / "file").write_text("hello")
    return path


def test_the_export_is_exactly_the_volumes(folder: Path, source: Path) -> None:
    volumes = [Volume(str(source)), Volume(str(source), readonly=False), Volume(str(source / "file"))]
    with share_volumes(volumes, str(folder)) as share:
        tree = _tree(share)
        assert sorted(os.listdir(tree)) == ["v0", "v1", "v2"]
        assert (tree / "v0" / "file").read_text() == (tree / "v2").read_text() == "hello"
        options = _options(share)
        assert {"ro", "nosuid", "nodev"} <= options["v0"]
        assert {"rw", "nosuid", "nodev"} <= options["v1"]
        assert {"ro", "nosuid", "nodev"} <= options["v2"]
        assert {"ro", "nosuid", "nodev", "noexec"} <= options["shared"]


def test_read_only_is_the_hosts_not_the_guests(folder: Path, source: Path) -> None:
    with share_volumes([Volume(str(source)), Volume(str(source), readonly=False)], str(folder)) as share:
        tree = _tree(share)
        for target in (tree / "v0" / "new", tree / "beside"):
            with pytest.raises(OSError, match="Read-only file system"):
                target.write_text("x")
        (tree / "v1" / "new").write_text("x")
    assert (source / "new").read_text() == "x"


def test_mounts_below_a_read_only_volume_are_read_only_too(folder: Path, source: Path) -> None:
    from kata.linux import syscalls

    below = source / "below"
    below.mkdir()
    syscalls.mount("t", str(below), "tmpfs")
    try:
        (below / "inner").write_text("x")
        with share_volumes([Volume(str(source))], str(folder)) as share:
            assert (_tree(share) / "v0" / "below" / "inner").read_text() == "x"
            with pytest.raises(OSError, match="Read-only file system"):
                (_tree(share) / "v0" / "below" / "new").write_text("x")
    finally:
        syscalls.umount2(str(below), syscalls.MNT_DETACH)


def test_a_path_swapped_later_changes_nothing(folder: Path, source: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(source)
    with share_volumes([Volume(str(link))], str(folder)) as share:
        link.unlink()
        link.symlink_to("/etc")
        assert os.listdir(_tree(share) / "v0") == ["file"]


def test_volumes_come_and_go_while_the_daemon_runs(folder: Path, source: Path) -> None:
    with start_share(str(folder)) as share:
        tree = _tree(share)
        assert os.listdir(tree) == []
        for name in ("box/rootfs", "file"):
            share.add(name, str(source if "/" in name else source / "file"), readonly=True)
        assert (tree / "box" / "rootfs" / "file").read_text() == (tree / "file").read_text() == "hello"
        share.remove("box/rootfs")
        share.remove("file")
        share.remove("file")
        assert os.listdir(tree) == ["box"]
        assert os.listdir(tree / "box") == []
    assert (source / "file").read_text() == "hello"


def test_the_daemon_inherits_no_way_around_the_export(folder: Path, source: Path) -> None:
    with share_volumes([Volume(str(source))], str(folder)) as share:
        links = list(_links(share.pid))
        assert not [link for link in links if str(source) in link]
        assert len([link for link in links if link.startswith("socket:")]) == 1


def test_killing_the_daemon_takes_the_mounts_along(folder: Path, source: Path) -> None:
    share = share_volumes([Volume(str(source))], str(folder))
    namespace = os.stat(f"/proc/{share.pid}/ns/mnt").st_ino
    os.kill(share.pid, signal.SIGKILL)
    pidfd = os.pidfd_open(share.pid)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    assert poll.poll(5000)
    os.close(pidfd)
    assert not share.running()
    assert namespace not in _namespaces()
    share.close()
    share.close()


def test_a_daemon_that_is_connected_to_confines_itself(folder: Path, source: Path) -> None:
    with share_volumes([Volume(str(source))], str(folder)) as share, socket.socket(socket.AF_UNIX) as vmm:
        vmm.settimeout(10)
        vmm.connect(share.socket_path)
        vmm.sendall(bytes.fromhex("010000000100000000000000"))  # VHOST_USER_GET_FEATURES, no payload
        with vmm.makefile("rb") as stream:
            assert len(stream.read(20)) == 20  # header of 12 bytes and a u64: it serves, so it is set up
        confined = [pid for pid in _group(share.pid) if _field(pid, "Seccomp") == "2"]
        assert confined
        assert all(os.listdir(f"/proc/{pid}/root") == ["v0"] for pid in confined)


def test_unmounting_a_shared_tree_leaves_the_hosts_mounts(folder: Path, source: Path) -> None:
    """`ip netns` makes its folder a shared mount; a clone of it must not be its peer."""
    from kata.linux import syscalls

    syscalls.mount("t", str(source), "tmpfs")
    try:
        syscalls.mount("none", str(source), "", syscalls.MS_SHARED)
        below = source / "below"
        below.mkdir()
        syscalls.mount("t", str(below), "tmpfs")
        try:
            with share_volumes([Volume(str(source))], str(folder)) as share:
                assert os.path.ismount(_tree(share) / "v0" / "below")
            assert os.path.ismount(below)
        finally:
            syscalls.umount2(str(below), syscalls.MNT_DETACH)
    finally:
        syscalls.umount2(str(source), syscalls.MNT_DETACH)


@pytest.mark.parametrize(
    ("path", "message"), [("/nonexistent", "cannot be opened"), ("/dev/null", "neither a directory")]
)
def test_what_cannot_be_shared(folder: Path, path: str, message: str) -> None:
    with pytest.raises(VolumeError, match=message):
        share_volumes([Volume("/"), Volume(path)], str(folder))


def test_a_daemon_that_cannot_run(folder: Path, source: Path) -> None:
    with pytest.raises(DaemonError, match="No such file"):
        start_share(str(folder), daemon=Daemon("/nonexistent/virtiofsd", "c"))


def test_the_owners_death_ends_the_daemon(folder: Path, source: Path) -> None:
    read_end, write_end = os.pipe()
    owner = os.fork()
    if owner == 0:
        try:
            own_namespace()
            os.write(write_end, str(share_volumes([Volume(str(source))], str(folder)).pid).encode())
            signal.pause()
        finally:
            os._exit(1)
    pidfd, daemon = -1, 0
    try:
        daemon = int(os.read(read_end, 32))
        pidfd = os.pidfd_open(daemon)
        os.kill(owner, signal.SIGKILL)
        os.waitpid(owner, 0)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        assert poll.poll(5000), "virtiofsd outlived its owner"
    finally:
        for fd in (read_end, write_end, pidfd):
            os.close(fd)
        (folder / "virtiofsd.sock").unlink()
        (folder / "shared").rmdir()


def _tree(share: VirtiofsShare) -> Path:
    """The export as the daemon sees it, reached through its mount namespace."""
    return Path(f"/proc/{share.pid}/root{Path(share.socket_path).with_name('shared')}")


def _options(share: VirtiofsShare) -> dict[str, set[str]]:
    lines = Path(f"/proc/{share.pid}/mountinfo").read_text().splitlines()
    return {Path(line.split()[4]).name: set(line.split()[5].split(",")) for line in lines}


def _mounts() -> str:
    return Path("/proc/self/mountinfo").read_text()


def _group(leader: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.getpgid(int(entry.name)) == leader:
                    found.append(int(entry.name))
            except ProcessLookupError:
                continue
    return found


def _field(pid: int, name: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(f"{name}:"))


def _namespaces() -> set[int]:
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found.add((entry / "ns" / "mnt").stat().st_ino)
            except OSError:
                continue
    return found


def _children() -> set[int]:
    """Our child processes, zombies too. (Another test of this run may own one that stays, so they are compared.)

    Those that we started lead a process group; what they left behind, and came to us as an orphan, does not.
    """
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                _, parent, group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
            except OSError:
                continue
            if int(parent) == os.getpid() and group == entry.name:
                found.add(int(entry.name))
    return found


def _links(pid: int) -> Iterator[str]:
    """What the descriptors of a process are open on, but for those that it closes meanwhile."""
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            yield os.readlink(f"/proc/{pid}/fd/{fd}")

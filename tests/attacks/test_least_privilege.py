"""What the processes of a sandbox may do, by inspection of those that live: of `kata run`, and of containerd's.

A guest that has taken its QEMU over, or its file daemon, has what such a process has, and no more. Files and sockets:
test_tenant_host.py; the daemon's view and capabilities: test_shares.py, tests/kernel/test_virtiofs.py.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from kata import paths
from kata.cgroups.group import mark_of
from kata.cgroups.hierarchy import hierarchies, own_paths, path_in
from kata.cgroups.mark import read_mark
from tests.containerd.conftest import daemon
from tests.helpers.cli import kata
from tests.helpers.containerd import Containerd
from tests.helpers.evidence import descendants
from tests.helpers.zygotes import zygotes

__all__ = ["daemon"]

pytestmark = [pytest.mark.containerd, pytest.mark.vm, pytest.mark.root]

SECRET = "s3cret-of-a-container"
COMMON = (
    *(r"/dev/null", r"pipe:\[\d+\]", r"socket:\[\d+\]"),
    *(r"anon_inode:\[(eventfd|eventpoll|signalfd|pidfd)\]", "anon_inode:inotify"),
)
MEMORY = r"/memfd:kata-template(-copy)? \(deleted\)"
QEMU = (*COMMON, MEMORY, "FILE")
"""FILE: one that boots it or is its container's, open for reading alone."""
VIRTIOFSD = (*COMMON, MEMORY, r"/", r"/\d+/task", r"/least(/.*)?", r"/[0-9a-z-]+-v")
"""The folders are the roots of its own namespace, an export and a /proc of two processes; and the container's there."""
STREAMS = r"/run/containerd/fifo/\d+/least-std(in|out|err)"
HOLDER = (
    *COMMON,
    MEMORY,
    "FILE",
    "STATE",
    r"(net|mnt):\[\d+\]",
    r"/.*/default/least/log",
    r"/sys/fs/cgroup/.*",
    STREAMS,
)
"""Who holds the sandbox is root on the host anyway; what it has by accident would go on to its children."""


class Live(NamedTuple):
    """A sandbox that runs, whose container has a volume and an environment variable with a secret."""

    front: str
    holder: int
    others: tuple[int, ...]
    """zygotes."""

    @property
    def vmm(self) -> int:
        return next(pid for pid in descendants(self.holder) if "qemu-system" in name(pid))

    @property
    def daemons(self) -> list[int]:
        return [pid for pid in descendants(self.holder) if "virtiofsd" in name(pid)]


def name(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


@pytest.fixture(scope="module", params=["kata run", "ctr"])
def live(request: pytest.FixtureRequest, busybox: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """Everything that boots guests is the same afterwards."""
    volume = tmp_path_factory.mktemp("volume")
    before = hashes()
    if request.param == "kata run":
        words = ("run", "-d", "-v", f"{volume}:/v", "-e", f"TOKEN={SECRET}", "busybox", "sleep", "1000")
        sandbox = kata(*words, check=True).stdout.decode().strip()
        holder = int((paths.sandboxes_dir() / sandbox / "lock").read_text().split()[0])
        yield Live(request.param, holder, ())
        kata("rm", "-f", sandbox, check=True)
    else:
        found: Containerd = request.getfixturevalue("daemon")
        mount = f"type=bind,src={volume},dst=/v,options=rbind:rw"
        found.run("least", "sleep", "1000", options=("--mount", mount, "--env", f"TOKEN={SECRET}"))
        bundle = found.folder / "state/io.containerd.runtime.v2.task/default/least"
        yield Live(request.param, int((bundle / "shim.pid").read_text()), tuple(zygotes(paths.state_dir() / "zygote")))
        found.remove("least")
    after = hashes()
    assert {path: after[path] for path in before} == before, "CVE-2020-2025: what guests boot from is as it was"


def hashes() -> dict[str, str]:
    """All that guests boot from, or have as their root. For templates: tests/vm/test_templates.py."""
    folders = (paths.assets_dir(), paths.images_dir() / "rootfs")
    files = [path for folder in folders if folder.is_dir() for path in folder.rglob("*") if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_qemu_has_a_user_of_its_own_and_no_rights(live: Live) -> None:
    found = status(live.vmm)
    assert len(set(found["Uid"].split())) == 1 and int(found["Uid"].split()[0]) > 1 << 20
    assert found["Groups"] == ""
    for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(found[kind], 16) == 0
    assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")
    for kind in ("mnt", "ipc"):
        assert os.stat(f"/proc/{live.vmm}/ns/{kind}").st_ino != os.stat(f"/proc/{live.holder}/ns/{kind}").st_ino


def test_a_sandbox_has_cgroups_of_its_own(live: Live) -> None:
    """Counted, and found by the operator: all of `kata run`'s in one; what is the pod's and what is overhead apart."""
    ours = [live.holder, live.vmm, *live.daemons]
    for tree in hierarchies():
        places = {path_in(tree, own_paths(pid)) for pid in ours}
        assert all("/kata_" in place or "/kata-" in place for place in places), "folders, or scopes of systemd's"
        if live.front == "kata run":
            assert len(places) == 1
            folder = Path(tree.root + places.pop())
            assert set((folder / "cgroup.procs").read_text().split()) >= {str(pid) for pid in ours}
            assert read_mark(mark_of(str(folder))) is not None


def test_every_thread_of_qemus_is_filtered(live: Live) -> None:
    """The filter was installed after some threads were there, in QEMU before 4.0 (CVE-2018-15746)."""
    for thread in Path(f"/proc/{live.vmm}/task").iterdir():
        assert "Seccomp:\t2" in (thread / "status").read_text()


def test_no_two_sandboxes_have_one_user(live: Live, busybox: str) -> None:
    sandbox = kata("run", "-d", "busybox", "sleep", "1000", check=True).stdout.decode().strip()
    try:
        holder = int((paths.sandboxes_dir() / sandbox / "lock").read_text().split()[0])
        assert status(Live("", holder, ()).vmm)["Uid"] != status(live.vmm)["Uid"]
    finally:
        kata("rm", "-f", sandbox, check=True)


SEE = """
import os
found = []
for top in os.listdir("/"):
    found.append(top)
print("top", *sorted(found))
print("processes", *sorted(name for name in os.listdir("/proc") if name.isdigit()))
for path in ("/", "/tmp", "/dev", "/dev/shm", "/run", "/var/tmp", "/usr", "/proc"):
    try:
        open(os.path.join(path, "made"), "w")
        print("written", path)
    except OSError:
        pass
for path in os.environ["LOOK"].split(":"):
    if os.path.exists(path):
        print("seen", path)
"""


def test_what_qemu_sees_of_the_host(live: Live) -> None:
    """As its user in its namespaces, with a program beside it: no state, no sockets, nothing to write to."""
    uid = status(live.vmm)["Uid"].split()[0]
    hidden = ("/etc/passwd", "/etc/shadow", "/root", "/home", "/run", "/var", "/tmp", "/sys", "/dev/kvm", "/dev/vda")
    closed = tuple(path for path in hidden if not str(paths.assets_dir()).startswith(f"{path}/"))  # as folders, empty
    look = ":".join([*closed, str(paths.state_dir()), str(paths.data_dir() / "templates")])
    argv = ["nsenter", f"--target={live.vmm}", "--mount", "--ipc", "--", "setpriv", f"--reuid={uid}", f"--regid={uid}"]
    argv += ["--clear-groups", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all", "--"]
    argv += ["/usr/bin/env", "-i", f"LOOK={look}", "/usr/bin/python3.11", "-ISc", SEE]
    lines = subprocess.run(argv, capture_output=True, check=True, timeout=60).stdout.decode().splitlines()
    said = {line.split()[0]: line.split()[1:] for line in lines if not line.startswith(("written", "seen"))}
    allowed = {"bin", "dev", "etc", "lib", "lib32", "lib64", "libx32", "proc", "sbin", "usr"}
    top = {str(paths.assets_dir()).split("/")[1]}
    assert set(said["top"]) <= allowed | top
    assert str(live.holder) not in said["processes"] and "1" not in said["processes"]
    assert [line for line in lines if line.startswith(("written", "seen"))] == []


def test_environments_are_bare(live: Live) -> None:
    """What the one who started us has in his environment is nobody's business there."""
    allowed = {"PATH", "LANG", "LC_ALL", "KATA_STARTED_BY", "PWD", "SHLVL", "_", "OLDPWD"}
    for pid in (live.vmm, *live.daemons):
        words = Path(f"/proc/{pid}/environ").read_bytes().decode().rstrip("\0").split("\0")
        assert {word.partition("=")[0] for word in words} <= allowed


def descriptors(pid: int) -> Iterator[tuple[str, str, int]]:
    """Number, target and flags (open(2)) of each."""
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(fd)
            flags = Path(f"/proc/{pid}/fdinfo/{fd.name}").read_text()
        except OSError:
            continue
        yield fd.name, target, int(re.findall(r"flags:\t(\d+)", flags)[0], 8)


def kind_of(target: str, flags: int) -> str:
    """The word of an allow-list for a file: FILE, STATE, LOG, or the path."""
    boots = (str(paths.assets_dir()), str(paths.images_dir()), "/usr/")
    if target.startswith(boots) and flags & os.O_ACCMODE == os.O_RDONLY:
        return "FILE"
    if target.startswith((str(paths.state_dir()), str(paths.templates_dir()))):
        return "STATE"
    return target


def unexpected(pid: int, allowed: tuple[str, ...]) -> list[str]:
    patterns = "|".join(f"(?:{pattern})" for pattern in allowed)
    found = [(number, kind_of(target, flags), flags) for number, target, flags in descriptors(pid)]
    return [f"{number} {kind} {flags:o}" for number, kind, flags in found if not re.fullmatch(patterns, kind)]


def internet_sockets(pid: int) -> list[str]:
    """Inodes of its sockets that are in a table of a network, its own or ours: none is anything but a unix one."""
    kinds = ("tcp", "tcp6", "udp", "udp6", "raw", "raw6", "packet", "netlink")
    tables = [Path(f"{place}/net/{kind}") for place in (f"/proc/{pid}", "/proc/self") for kind in kinds]
    words = {word for table in tables if table.exists() for word in table.read_text().split()}
    return [
        target[8:-1] for _, target, _ in descriptors(pid) if target.startswith("socket:[") and target[8:-1] in words
    ]


def test_descriptors_of_qemu(live: Live) -> None:
    """CVE-2024-21626's class, on the host: what a taken-over QEMU finds open. Its files are read-only."""
    assert unexpected(live.vmm, QEMU) == []
    assert internet_sockets(live.vmm) == []


def test_descriptors_of_the_file_daemon(live: Live) -> None:
    assert len(live.daemons) == 2
    for pid in live.daemons:
        assert unexpected(pid, VIRTIOFSD) == []
        assert internet_sockets(pid) == []


def test_descriptors_of_who_holds_it(live: Live) -> None:
    assert unexpected(live.holder, HOLDER) == []
    for pid in live.others:
        assert unexpected(pid, (*COMMON, "STATE", "/")) == []


def test_secrets_stay_in_the_container(live: Live, daemon: Containerd) -> None:
    """In no command line and no environment on the host, in no log, and in no file that others may read."""
    for pid in (live.holder, *descendants(live.holder), *live.others):
        for place in ("cmdline", "environ"):
            assert SECRET.encode() not in Path(f"/proc/{pid}/{place}").read_bytes(), name(pid)
    assert SECRET not in daemon.log.read_text()
    for path in paths.state_dir().rglob("*"):
        if path.is_file() and not path.is_symlink() and SECRET.encode() in path.read_bytes():
            assert path.suffix != ".log" and path.stat().st_mode & 0o077 == 0, path


def test_a_container_of_kata_run_is_filtered(busybox: str) -> None:
    """Calls without use for it are refused to root, too: new namespaces and mounts among them."""
    script = "grep Seccomp: /proc/self/status; unshare -r true; mount -t tmpfs t /mnt; umount /proc; echo end"
    done = kata("run", "--rm", "busybox", "sh", "-c", script)
    assert done.stdout.decode().split() == ["Seccomp:", "2", "end"]
    assert done.stderr.decode().count("not permitted") == 2 and b"mount: permission denied" in done.stderr

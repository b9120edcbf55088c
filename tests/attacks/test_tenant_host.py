"""What a tenant finds on the host while sandboxes run: nothing to open, nothing to connect to, nothing that grows."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import stat
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from kata import paths
from kata.protocol.client import Client
from kata.protocol.generated.host import task_pb2
from kata.protocol.status import RpcError
from kata.protocol.transport import dial
from kata.shim.address import socket_path
from tests.containerd.conftest import await_nothing_left, daemon
from tests.helpers.cli import kata, leftovers
from tests.helpers.containerd import IMAGE, RUNTIME, Containerd
from tests.helpers.evidence import descendants
from tests.unit.images import crafted
from tests.unit.images.crafted import entry, tar

__all__ = ["daemon"]

pytestmark = [pytest.mark.containerd, pytest.mark.vm, pytest.mark.root]

STRANGER = """
import os, socket, stat, sys
for path in sys.stdin.read().split("\\0"):
    tries = [("read", os.O_RDONLY), ("written", os.O_WRONLY)]
    kind = os.lstat(path).st_mode if os.access(os.path.dirname(path), os.X_OK) else 0
    if stat.S_ISLNK(kind):
        continue
    for word, flags in tries:
        try:
            os.close(os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW))
            print(word, path)
        except OSError:
            pass
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(path)
        print("connected", path)
    except OSError:
        pass
    try:
        os.unlink(os.path.join(path, "")) if stat.S_ISDIR(kind) else os.rename(path, path + ".mine")
        print("moved", path)
    except OSError:
        pass
"""
"""What somebody without rights can do with paths: run as a user id of nobody's."""

FLOODS = 6
PIECE = 1 << 20


def stranger(found: list[Path]) -> list[str]:
    """What a user without rights may do with these."""
    argv = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs", "--inh-caps=-all", "--"]
    names = "\0".join(map(str, found)).encode()
    argv += ["/usr/bin/python3.11", "-ISc", STRANGER]
    return subprocess.run(argv, input=names, capture_output=True, check=True, timeout=60).stdout.decode().splitlines()


def below(folder: Path) -> list[Path]:
    """Everything in a folder, and itself."""
    return [folder, *(Path(top) / name for top, names, files in os.walk(folder) for name in (*names, *files))]


@contextmanager
def as_on_a_host() -> Iterator[None]:
    """The tests' state has a folder that is closed to all; a host's is in /run, and open."""
    paths.state_dir().chmod(0o755)
    try:
        yield
    finally:
        paths.state_dir().chmod(0o700)


def test_the_stranger_of_this_test_sees_what_is_open(tmp_path: Path) -> None:
    """Else nothing would be proved below."""
    folder = Path("/run") / f"kata-open-{os.getpid()}"
    folder.mkdir(mode=0o755)
    try:
        for name, mode in (("readable", 0o644), ("writable", 0o646), ("closed", 0o600)):
            (folder / name).touch()
            (folder / name).chmod(mode)
        said = stranger([folder, *folder.iterdir()])
        names = {(line.split(" ")[0], line.rpartition("/")[2]) for line in said}
        assert names == {("read", folder.name), ("read", "readable"), ("read", "writable"), ("written", "writable")}
    finally:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


@pytest.fixture(scope="module", autouse=True)
def _made_anew() -> None:
    """Folders that other tests have made in the place of the product have the modes of tests."""
    for folder in (paths.sandboxes_dir(), paths.vm_dir()):
        if folder.is_dir() and all(path.name.startswith(".") for path in folder.iterdir()):
            shutil.rmtree(folder)


def run_detached(*options: str) -> str:
    return kata("run", "-d", *options, "busybox", "sleep", "1000", check=True).stdout.decode().strip()


def check_disk(more: list[Path]) -> None:
    """GO-2022-0938, GO-2025-4100, CVE-2021-41103: everything of ours is root's, and closed to all others."""
    found = [path for path in below(paths.state_dir()) if "/shared/" not in str(path)] + more
    assert len(found) > 10
    for path in found:
        info = path.lstat()
        assert info.st_uid == 0, path
        assert stat.S_ISLNK(info.st_mode) or not info.st_mode & 0o022, f"{path} has the mode {info.st_mode:o}"
    private = [paths.images_dir(), paths.templates_dir(), paths.cache_dir() / "snapshots"]
    found += [path for folder in private if folder.exists() for path in below(folder)]
    open_to_all = {paths.state_dir(), *(path for path in more if path.is_dir())}
    said = [line for line in stranger(found) if Path(line.partition(" ")[2]) not in open_to_all]
    assert said == []
    for path in below(paths.data_dir()):
        assert path.is_symlink() or not path.lstat().st_mode & 0o022, f"others can write to {path}"


def sockets_of(pids: set[int]) -> list[str]:
    """Names of the unix sockets that these processes have, those without one left out (proc(5), net/unix)."""
    inodes = set()
    for pid in pids:
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            try:
                link = os.readlink(fd)
            except OSError:
                continue
            if link.startswith("socket:["):
                inodes.add(link[8:-1])
    lines = [line.split(None, 7) for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    return [fields[7] for fields in lines if len(fields) == 8 and fields[6] in inodes]


def processes_of(*roots: int) -> set[int]:
    return {*roots, *(pid for root in roots for pid in descendants(root))}


def check_sockets(pids: set[int]) -> None:
    """CVE-2020-15257: none is abstract, and one that has a name is closed to others by its own mode or its folder's."""
    names = sockets_of(pids)
    assert len(names) >= 2
    for name in names:
        assert name.startswith("/"), f"{name} can be reached by whoever shares the network"
        if os.path.exists(name):
            folder, info = os.stat(os.path.dirname(name)), os.stat(name)
            assert info.st_uid == 0
            assert not info.st_mode & 0o077 or not folder.st_mode & 0o077, f"{name} is open to others"


def test_what_kata_run_leaves_on_disk_and_listens_at(busybox: str, tmp_path: Path) -> None:
    """GO-2022-0938, GO-2025-4100, CVE-2020-15257, for the command: with a volume, so that all daemons are there."""
    (tmp_path / "volume").mkdir()
    sandbox = run_detached("-v", f"{tmp_path}/volume:/v")
    try:
        with as_on_a_host():
            check_disk([])
        lock = (paths.sandboxes_dir() / sandbox / "lock").read_text()
        check_sockets(processes_of(int(lock.split()[0])))
    finally:
        kata("rm", "-f", sandbox, check=True)
    assert leftovers() == []


def test_device_nodes_of_an_image_are_of_no_use(busybox: str, tmp_path: Path) -> None:
    """CVE-2020-2023 by an image: nodes of the guest's disk and memory, and a root's shell for everybody."""
    program = Path("/bin/busybox").read_bytes()
    nodes = [entry(name, type=kind, devmajor=major, devminor=minor, mode=0o666)
             for name, kind, major, minor in (("disk", b"4", 254, 0), ("mem", b"3", 1, 1), ("port", b"3", 1, 4),
                                              ("kmsg", b"3", 1, 11))]  # fmt: skip
    links = [entry(f"bin/{name}", type=b"1", linkname="bin/busybox") for name in ("sh", "cat", "id", "head")]
    crafted.image(
        tmp_path / "l",
        tar(entry("bin/busybox", program, mode=0o4755), *links, *nodes),
    )
    script = "for node in disk mem port kmsg; do head -c 1 /$node >/dev/null 2>&1 && echo $node; done; echo done"
    done = kata("run", "--rm", str(tmp_path / "l"), "sh", "-c", script)
    assert (done.returncode, done.stdout) == (0, b"done\n"), done.stderr
    assert leftovers() == []


# Under containerd


class Shim:
    """The shim of a container, spoken to as containerd does; streams are FIFOs of the test's."""

    def __init__(self, daemon: Containerd, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.bundle = daemon.folder / "state/io.containerd.runtime.v2.task" / daemon.namespace / name
        self.client = Client(dial((self.bundle / "address").read_text(), 10.0))
        self.pid = int((self.bundle / "shim.pid").read_text())

    def call(self, method: str, request: object) -> None:
        self.client.call(f"containerd.task.v2.Task/{method}", request, timeout=60.0)  # type: ignore[arg-type]

    def exec(self, exec_id: str, process: dict[str, object], *, terminal: bool = False) -> str:
        """Add a process and start it; the FIFO of its output, which nobody reads."""
        fifo = self.folder / exec_id.replace("/", "_")
        os.mkfifo(fifo)
        request = task_pb2.ExecProcessRequest(id=self.name, exec_id=exec_id, stdout=str(fifo), terminal=terminal)
        request.spec.type_url = "types.containerd.io/opencontainers/runtime-spec/1/Process"
        request.spec.value = json.dumps({"cwd": "/", "user": {"uid": 0, "gid": 0}, **process}).encode()
        self.call("Exec", request)
        self.call("Start", task_pb2.StartRequest(id=self.name, exec_id=exec_id))
        return str(fifo)

    @property
    def memory(self) -> int:
        """Bytes that the shim has for itself."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("RssAnon:")[2].split()[0]) << 10


@pytest.fixture(scope="module")
def shim(daemon: Containerd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shim]:
    """A container whose tenant tries things, with a volume."""
    folder = tmp_path_factory.mktemp("tenant")
    (folder / "volume").mkdir()
    mount = f"type=bind,src={folder}/volume,dst=/v,options=rbind:rw"
    labels = f"containerd.io/restart.loguri=binary:///bin/touch?{folder}/evidence"
    options = ("--mount", mount, "--label", labels, "--annotation", labels, "--env", f"LOG_URI={labels}")
    daemon.run("tenant", "sleep", "10000", options=options)
    made = Shim(daemon, "tenant", folder)
    try:
        yield made
        assert not (folder / "evidence").exists(), "a label became a program"
    finally:
        made.client.close()
        daemon.remove("tenant")
    assert await_nothing_left(daemon) == [], "of this container, and of those that were refused"


def test_what_a_pod_leaves_on_disk_and_listens_at(shim: Shim, daemon: Containerd) -> None:
    """GO-2022-0938, GO-2025-4100, CVE-2020-15257, for containerd's sandboxes: state, bundle, the task's socket."""
    socket = Path(socket_path(str(daemon.address), daemon.namespace, "tenant"))
    assert stat.S_IMODE(socket.stat().st_mode) == 0o600 and stat.S_IMODE(socket.parent.stat().st_mode) & 0o077 == 0
    with as_on_a_host():
        check_disk([socket])
    check_sockets(processes_of(shim.pid))


@pytest.mark.parametrize("terminal", [False, True])
def test_go_2022_0482_output_that_nobody_reads_does_not_grow_the_shim(shim: Shim, terminal: bool) -> None:
    """GO-2022-0482, GO-2022-1147: processes that never stop to write. Each costs a few pieces of output, no more."""
    before = shim.memory
    names = [f"flood{number}-{terminal}" for number in range(FLOODS)]
    args = ["sh", "-c", "exec dd if=/dev/zero bs=64k 2>/dev/null"]
    with ExitStack() as stack:
        fifos = [shim.exec(name, {"args": args, "env": ["PATH=/bin"]}, terminal=terminal) for name in names]
        stack.callback(end, shim, names, fifos)
        await_full(fifos)
        full = shim.memory
        time.sleep(1.0)
        print(f"{FLOODS} floods: {before >> 20} MiB, {full >> 20} MiB, a second later {shim.memory >> 20} MiB")
        assert shim.memory - full < FLOODS * PIECE, "it goes on growing"
        assert full - before < FLOODS * 10 * PIECE, "two pieces each, and what the way here takes"


def end(shim: Shim, names: list[str], fifos: list[str]) -> None:
    """End processes, and read what is left of their output: their exit is told after that."""
    readers = [subprocess.Popen(["cat", path], stdout=subprocess.DEVNULL) for path in fifos]
    for name in names:
        shim.call("Kill", task_pb2.KillRequest(id="tenant", exec_id=name, signal=9))
    for name in names:
        shim.call("Wait", task_pb2.WaitRequest(id="tenant", exec_id=name))
        shim.call("Delete", task_pb2.DeleteRequest(id="tenant", exec_id=name))
    for reader in readers:
        reader.wait(30)


def await_full(fifos: list[str]) -> None:
    """Until each holds more than a piece that was asked for, or as much as it ever will."""
    deadline = time.monotonic() + 60
    for path in fifos:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            room = fcntl.fcntl(fd, 1032)  # F_GETPIPE_SZ
            while struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))[0] < room // 2:
                assert time.monotonic() < deadline, f"{path} does not fill"
                time.sleep(0.05)
        finally:
            os.close(fd)


def test_go_2025_4108_what_comes_and_goes_leaves_nothing_in_the_shim(shim: Shim) -> None:
    """GO-2025-4108: processes and the clients of their streams, one after the other; threads, descriptors, FIFOs."""

    def count() -> tuple[int, int]:
        return len(os.listdir(f"/proc/{shim.pid}/task")), len(os.listdir(f"/proc/{shim.pid}/fd"))

    def come_and_go(name: str) -> None:
        fifo = shim.exec(name, {"args": ["sleep", "1000"], "env": ["PATH=/bin"]})
        for _ in range(20):
            os.close(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK))
        end(shim, [name], [fifo])

    come_and_go("first")  # threads that answer are kept for a while
    before = count()
    for number in range(6):
        come_and_go(f"come{number}")
    after = count()
    assert after[0] <= before[0] + 2 and after[1] <= before[1], (before, after)


@pytest.mark.parametrize("exec_id", ["..", "a/b", "--help", "a\nb", "x" * 4096, "-"])
def test_names_of_processes_that_are_none(shim: Shim, exec_id: str) -> None:
    with pytest.raises(RpcError, match="is no id of a process"):
        request = task_pb2.ExecProcessRequest(id="tenant", exec_id=exec_id)
        request.spec.value = b'{"args": ["true"]}'
        shim.call("Exec", request)


def test_go_2025_3528_nobodys_number_is_not_root(shim: Shim) -> None:
    """GO-2025-3528, GO-2026-5378: 2^32-1 is not root (and passes a check for "not root")."""
    for user in ({"uid": 2**32 - 1, "gid": 0}, {"uid": 2**32, "gid": 0}, {"uid": 1, "gid": 2**32 - 1}):
        name = f"user{user['uid']}-{user['gid']}"
        with pytest.raises(RpcError):
            shim.exec(name, {"args": ["id"], "user": user})
        shim.call("Delete", task_pb2.DeleteRequest(id="tenant", exec_id=name))


@pytest.mark.parametrize("root", ["/", "/run", "link"])
def test_cve_2026_24054_the_hosts_root_is_nobodys(root: str, shim: Shim, daemon: Containerd, tmp_path: Path) -> None:
    """`ctr run --rootfs` with what holds the host's own files: no sandbox comes of it."""
    (tmp_path / "link").symlink_to("/")
    path = root if root.startswith("/") else str(tmp_path / root)
    done = daemon.ctr("run", "-d", "--runtime", RUNTIME, "--rootfs", path, "root", "true", check=False)
    assert done.returncode and b"which no container can have as its root" in done.stderr, done.stderr
    daemon.ctr("container", "rm", "root")


@pytest.mark.parametrize("source", ["/run/missing", "/proc/1/root/../..", "HERE/to-proc", "HERE/to-dev", "HERE/to-sda"])
def test_volumes_that_no_container_gets(source: str, shim: Shim, daemon: Containerd, tmp_path: Path) -> None:
    """Links to the host's kernel and disks; the error names the volume, and nothing is left."""
    for name, target in (("to-proc", "/proc"), ("to-dev", "/dev"), ("to-sda", "/dev/loop-control")):
        (tmp_path / name).symlink_to(target)
    path = source.replace("HERE", str(tmp_path))
    mount = ("--mount", f"type=bind,src={path},dst=/x,options=rbind:rw")
    done = daemon.ctr("run", "-d", "--runtime", RUNTIME, *mount, IMAGE, "volume", "ls", "/x", check=False)
    if path.startswith("/proc/"):  # the guest's own
        daemon.remove("volume")
        return
    assert done.returncode and path.encode() in done.stderr, done.stderr
    daemon.ctr("container", "rm", "volume")

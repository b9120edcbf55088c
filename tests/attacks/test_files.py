"""What the host sends into a guest, and mounts there, on ways that containers have planted something on.

The whole agent in namespaces of its own, spoken to by its protocol; containers' part is played on its file system.
Links and files are planted where a volume that was copied in is a container's to write. Swaps while a file is written:
tests/unit/agent/test_copyfile.py; the shared copies of ConfigMaps: tests/unit/agent/test_mirror.py; folders of one
container in another: tests/kernel/test_agent.py.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.message import Message

from kata.linux.mounts import remove_tree
from kata.protocol.generated import agent_pb2
from kata.protocol.status import RpcError
from tests.kernel.test_agent import Agent

pytestmark = pytest.mark.root

RUN = "/run/kata-containers"
SHARED = f"{RUN}/shared/containers"
FILE, FOLDER, LINK = (kind | 0o644 for kind in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK))


class Guest:
    """An agent; two volumes that were copied in, the attacker's and another's; and what is the guest's own."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.root = Path(f"/proc/{agent.pid}/root")
        self.mine, self.theirs = (self.root / f".{SHARED}/{name}" for name in ("mine", "theirs"))
        self.own = self.root / "./run/own"
        for folder in (self.mine, self.theirs, self.own, self.root / f".{RUN}/box/rootfs"):
            folder.mkdir(parents=True, exist_ok=True)
        for folder in (self.theirs, self.own):
            (folder / "secret").write_text("precious\n")
        self._before = self._look()

    def call(self, method: str, request: Message) -> str:
        """The agent's refusal; empty when it did as it was told."""
        try:
            self.agent.call(method, request)
        except RpcError as error:
            return error.message
        return ""

    def copy(self, path: str, mode: int = FILE, data: bytes = b"evil", size: int = -1, offset: int = 0) -> str:
        """One CopyFile; what the agent says against it."""
        request = agent_pb2.CopyFileRequest(
            path=path, file_mode=mode, dir_mode=0o755, data=data, file_size=len(data) if size < 0 else size
        )
        request.offset = offset
        return self.call("CopyFile", request)

    def store(self, **fields: object) -> str:
        """UpdateEphemeralMounts and the like need a sandbox: a container's storage, which goes with it at once."""
        storage = agent_pb2.Storage(**fields)  # type: ignore[arg-type]
        request = self.agent.request("attempt", "true")
        request.storages.append(storage)
        said = self.call("CreateContainer", request)
        if not said:
            self.agent.remove("attempt")
        return said

    def unharmed(self) -> None:
        """What is not the attacker's is as it was, and nothing is mounted there."""
        assert self._look() == self._before

    def _look(self) -> list[object]:
        files = []
        for folder in (self.theirs, self.own):
            for path in sorted([folder, *folder.rglob("*")]):
                info = path.lstat()
                content = path.read_bytes() if stat.S_ISREG(info.st_mode) else b""
                files.append((str(path), info.st_mode, info.st_uid, info.st_nlink, content))
        mounts = Path(f"/proc/{self.agent.pid}/mountinfo").read_text().splitlines()
        return [files, [line for line in mounts if "/run/own" in line or "/theirs" in line]]


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    made = Agent(tmp_path_factory.mktemp("agent"))
    try:
        made.call("CreateSandbox", agent_pb2.CreateSandboxRequest(sandbox_id="sb", hostname="pod"))
        yield made
    finally:
        made.close()


@pytest.fixture
def guest(agent: Agent) -> Iterator[Guest]:
    made = Guest(agent)
    yield made
    remove_tree(str(made.mine))


TARGETS = ("/run/own", "../../../../run/own", "/proc/self/root/run/own", "/proc/1/root/run/own", "../theirs", "/theirs")
"""Where a planted link leads: out, or to another container's volume, which is where the shared folder is the root."""


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("mode", [FILE, FOLDER, LINK, stat.S_IFCHR], ids=["file", "folder", "link", "removal"])
def test_cve_2026_41326_copyfile_behind_planted_links(guest: Guest, target: str, mode: int) -> None:
    """CVE-2026-41326: as a parent, as the file itself, dangling, in a folder, and under the name for half a file."""
    data = b"" if mode == stat.S_IFCHR else b"evil"
    (guest.mine / "parent").symlink_to(target)
    (guest.mine / "folder").mkdir()
    (guest.mine / "folder/inner").symlink_to(target if target.startswith("/") else f"../{target}")
    for path in ("parent/secret", "parent/new", "folder/inner/secret", "folder/inner/new/deep"):
        assert guest.copy(f"{SHARED}/mine/{path}", mode, data), path
        guest.unharmed()
    for name, planted in (("file", "secret"), ("dangling", "new")):
        for suffix in ("", ".tmp"):
            (guest.mine / f"{name}{suffix}").symlink_to(f"{target}/{planted}")
        guest.copy(f"{SHARED}/mine/{name}", mode, data)
        guest.unharmed()
    (guest.mine / "late.tmp").symlink_to(f"{target}/secret")
    guest.copy(f"{SHARED}/mine/late", mode, data, size=9 if data else 0, offset=2 if mode == FILE else 0)
    guest.unharmed()


@pytest.mark.parametrize(
    "path",
    [
        *(f"{SHARED}/{name}" for name in ("../../../own/secret", "mine/../../../../own/secret", "mine/..", "..", "")),
        *("/run/own/secret", f"{SHARED}x/file", "run/own/secret", f"{SHARED}/mine/\0/file", f"/../{SHARED}/../x"),
    ],
)
def test_cve_2026_41326_copyfile_by_names_that_lead_out(guest: Guest, path: str) -> None:
    for mode in (FILE, FOLDER, LINK, stat.S_IFCHR):
        said = guest.copy(path, mode, b"" if mode == stat.S_IFCHR else b"evil")
        assert "CopyFile" in said
    guest.unharmed()


def test_cve_2026_41326_copyfile_over_hard_links_pipes_and_devices(guest: Guest) -> None:
    """A second name of another's file is replaced, not written to; what is no file blocks nobody and gets nothing."""
    for name in ("hard", "hard.tmp", "later.tmp"):
        os.link(guest.theirs / "secret", guest.mine / name)
    assert guest.copy(f"{SHARED}/mine/hard") == ""
    assert (guest.theirs / "secret").read_text() == "precious\n"
    assert (guest.mine / "hard").read_bytes() == b"evil"
    os.unlink(guest.mine / "later.tmp")
    for name, kind, device, said in (
        ("pipe", stat.S_IFIFO, 0, "No such device"),
        ("node", stat.S_IFCHR, os.makedev(1, 3), "no regular file"),
    ):
        os.mknod(guest.mine / f"{name}.tmp", kind | 0o666, device)
        assert said in guest.copy(f"{SHARED}/mine/{name}", size=9, offset=2)
        assert guest.copy(f"{SHARED}/mine/{name}") == ""
        assert (guest.mine / name).read_bytes() == b"evil"
    guest.unharmed()


@pytest.mark.parametrize("target", ["/run/own", "../../../own", "/proc/self/root/run/own"])
@pytest.mark.parametrize("folder", [f"{SHARED}/mine", f"{RUN}/box/rootfs"], ids=["shared", "rootfs"])
def test_cve_2015_3629_storages_behind_planted_links(guest: Guest, target: str, folder: str) -> None:
    """CVE-2015-3629's class: mount points, folders and mounted files whose way leads through a container's link."""
    place = guest.root / f".{folder}"
    (place / "link").symlink_to(target)
    (place / "file").symlink_to(f"{target}/secret")
    try:
        for path in ("link", "link/new", "link/new/deep", "file"):
            point = f"{folder}/{path}"
            for fields in (
                {"driver": "ephemeral", "source": "tmpfs", "fstype": "tmpfs"},
                {"driver": "local", "source": "local", "options": ["mode=0777", "fsgid=7"]},
                {"driver": "bind", "source": "/usr", "options": ["ro"]},
                {"driver": "bind", "source": "/proc/version"},
                {"driver": "watchable-bind", "source": "/proc/sys/kernel/random"},
            ):
                said = guest.store(mount_point=point, **fields)
                assert "symbolic link" in said or "Not a directory" in said or "File exists" in said, (path, said)
                guest.unharmed()
    finally:
        for name in ("link", "file"):
            (place / name).unlink()


def test_a_volume_of_the_host_is_asked_for_by_a_planted_link(guest: Guest) -> None:
    """GetVolumeStats and ResizeVolume tell of what is below the volumes' folder alone."""
    (guest.mine / "link").symlink_to("/run/own")
    (guest.mine / "magic").symlink_to("/proc/self/root/run")
    for path in (f"{SHARED}/mine/link", f"{SHARED}/mine/magic/own", f"{RUN}/../own"):
        said = guest.call("GetVolumeStats", agent_pb2.VolumeStatsRequest(volume_guest_path=path))
        assert "no volume" in said or "volumes are below" in said
        said = guest.call("ResizeVolume", agent_pb2.ResizeVolumeRequest(volume_guest_path=path, size=1 << 30))
        assert "no volume" in said or "volumes are below" in said

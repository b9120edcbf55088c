"""Images and volumes with links in them, made to have the guest's runtime write outside of the container.

The whole agent and its crun, in namespaces of their own instead of a guest: the same programs, and a hundred attempts
in the time that a guest has for five. What must not change is a folder beside the containers, `VICTIM`. Images have a
copy of it or not: what a link leads to then exists on both sides, or on the wrong one alone.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata.oci.convert import spec_to_proto
from kata.oci.spec import LinuxDevice, Mount, Spec
from kata.protocol.generated import agent_pb2
from kata.protocol.status import RpcError
from tests.helpers.arena import Edit, bind, mounted
from tests.kernel.test_agent import Agent, make_process, make_rootfs

pytestmark = pytest.mark.root

VICTIM = "/run/victim"
LINKS = (VICTIM, f"../../../../../../../..{VICTIM}")
"""As an absolute link, and as one that climbs."""
MASKED = ["/proc/keys", "/masked"]
READ_ONLY = ["/proc/sys", "/proc/sysrq-trigger", "/fixed"]


class Attempt:
    """An agent, images of one's own making, and containers of them, one at a time."""

    def __init__(self, agent: Agent, folder: Path) -> None:
        self.agent = agent
        self.folder = folder
        self.victim = Path(f"/proc/{agent.pid}/root{VICTIM}")
        (self.victim / "folder").mkdir(parents=True)
        (self.victim / "secret").write_text("precious\n")
        self._before = self._look()
        self._count = 0

    def root(self, *, inside: bool) -> Path:
        """A new image; `inside`: with a folder like the victim."""
        self._count += 1
        root = make_rootfs(self.folder / f"root{self._count}")
        if inside:
            (root / f".{VICTIM}/folder").mkdir(parents=True)
            (root / f".{VICTIM}/secret").write_text("the image's own\n")
        return root

    @contextlib.contextmanager
    def run(self, root: Path, *edits: Edit, script: str = "") -> Iterator[str]:
        """A container within the block: what its creation failed with, or what `script` said in it."""
        spec = ordinary(root, self.agent.cgroup, "sh", "-c", script)
        for edit in edits:
            spec = edit(spec)
        name = f"c{self._count}-{os.urandom(3).hex()}"
        request = agent_pb2.CreateContainerRequest(container_id=name, exec_id=name, OCI=spec_to_proto(spec))
        try:
            self.agent.call("CreateContainer", request)
        except RpcError as error:
            yield error.message
            return
        try:
            self.agent.call("StartContainer", agent_pb2.StartContainerRequest(container_id=name))
            yield self.agent.read(name).decode() if script else ""
        finally:
            self.agent.remove(name)

    def harmless(self, root: Path, *edits: Edit) -> str:
        """Try it; the error that it ended with, if it did. What is the guest's stayed as it was, all the time."""
        with self.run(root, *edits) as said:
            assert self._look() == self._before
        assert self._look() == self._before
        return said

    def _look(self) -> list[object]:
        """What there is, and whether something is mounted there."""
        mounts = Path(f"/proc/{self.agent.pid}/mountinfo").read_text()
        found = sorted(self.victim.rglob("*"))
        files = [(str(path), (info := path.lstat()).st_mode, info.st_uid, info.st_size) for path in found]
        return [files, (self.victim / "secret").read_text(), [line for line in mounts.splitlines() if VICTIM in line]]


def ordinary(root: Path, cgroup: str, *args: str) -> Spec:
    return {
        "ociVersion": "1.0.2",
        "process": make_process(*args),
        "root": {"path": str(root)},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]},
        ],
        "linux": {
            "cgroupsPath": f"/{cgroup}/attempt",
            "namespaces": [{"type": "network"}, {"type": "cgroup"}, {"type": "mount"}],
            "maskedPaths": MASKED[:1],
            "readonlyPaths": READ_ONLY[:2],
        },
    }


@pytest.fixture(scope="module")
def attempt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attempt]:
    made = Agent(tmp_path_factory.mktemp("agent"))
    try:
        made.call("CreateSandbox", agent_pb2.CreateSandboxRequest(sandbox_id="sb", hostname="pod"))
        yield Attempt(made, tmp_path_factory.mktemp("roots"))
    finally:
        made.close()


def without(*destinations: str) -> Edit:
    """No mounts at these places."""
    return lambda spec: {**spec, "mounts": [m for m in spec["mounts"] if m["destination"] not in destinations]}


def tmpfs(destination: str, *options: str) -> Mount:
    return {"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": list(options)}


def node(path: str) -> Edit:
    device: LinuxDevice = {"path": path, "type": "c", "major": 1, "minor": 5, "fileMode": 0o666, "uid": 0, "gid": 0}
    return lambda spec: {**spec, "linux": {**spec["linux"], "devices": [device]}}


@pytest.mark.parametrize("name", ["dev", "proc", "sys"])
def test_cve_2026_41579_an_image_with_a_link_in_place_of_a_folder_of_the_kernel(attempt: Attempt, name: str) -> None:
    """CVE-2026-41579, CVE-2026-47766 (/dev), CVE-2019-19921, CVE-2023-27561 (/proc): refused, and nothing done.

    crun 1.8.1 alone makes device nodes and links in the guest's folder.
    """
    for inside in (True, False):
        for link in LINKS:
            root = attempt.root(inside=inside)
            (root / name).rmdir()
            (root / name).symlink_to(f"{link}/folder")
            for edit in (without(), without(f"/{name}")):
                assert f"has a link at /{name}" in attempt.harmless(root, edit)


@pytest.mark.parametrize("path", ["/dev/sub/node", "/elsewhere/node", "/dev/sub", "/elsewhere/deeper/node"])
def test_cve_2026_47766_device_nodes_behind_links(attempt: Attempt, path: str) -> None:
    """CVE-2026-47766: nodes that a specification asks for, where the image has a link."""
    for inside in (True, False):
        for link in LINKS:
            root = attempt.root(inside=inside)
            for place in ("dev/sub", "elsewhere"):
                (root / place).symlink_to(f"{link}/folder")
            attempt.harmless(root, without("/dev", "/dev/pts"), node(path))


@pytest.mark.parametrize("destination", ["/link", "/link/new", "/link/new/deep", "/link/../other"])
def test_cve_2021_30465_mounts_behind_links_of_the_image(attempt: Attempt, destination: str) -> None:
    """CVE-2015-3629, CVE-2021-30465, CVE-2024-45310: destinations that lead out, those that are yet to be made too."""
    (attempt.folder / "file").write_text("x")
    for inside in (True, False):
        for link in LINKS:
            root = attempt.root(inside=inside)
            (root / "link").symlink_to(f"{link}/folder")
            mounts = ([tmpfs(destination)], [tmpfs(destination, "tmpcopyup")])
            for more in (*mounts, [bind(attempt.folder / "file", f"{destination}/file")]):
                attempt.harmless(root, mounted(*more))


def test_cve_2024_45310_mounts_behind_links_of_a_volume(attempt: Attempt, tmp_path: Path) -> None:
    """CVE-2024-45310, CVE-2019-16884: a volume that another container has planted links in, and mounts below it."""
    (tmp_path / "file").write_text("x")
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "proc").symlink_to("/proc/self/root")
    (volume / "first").symlink_to("/proc/1/root")
    for number, link in enumerate(LINKS):
        (volume / f"link{number}").symlink_to(f"{link}/folder")
    root = attempt.root(inside=False)
    for name in ("link0/new", "link1/new", f"proc{VICTIM}/folder/new", f"first{VICTIM}/folder/new"):
        for mount in (tmpfs(f"/volume/{name}"), bind(tmp_path / "file", f"/volume/{name}")):
            attempt.harmless(root, mounted(bind(volume, "/volume"), mount))
    assert sorted(path.name for path in volume.iterdir()) == ["first", "link0", "link1", "proc"]


def test_cve_2025_31133_masked_paths_and_a_dev_null_of_the_image(attempt: Attempt) -> None:
    """CVE-2025-31133: what hides a path is no file of the image's, though nothing is mounted on /dev."""
    root = attempt.root(inside=True)
    for place, target in (("dev/null", f"{VICTIM}/secret"), ("masked", f"{VICTIM}/secret"), ("fixed", VICTIM)):
        (root / place).symlink_to(target)

    def edit(spec: Spec) -> Spec:
        return {**spec, "linux": {**spec["linux"], "maskedPaths": MASKED, "readonlyPaths": READ_ONLY}}

    script = "cat /proc/keys /masked; (echo 1 > /proc/sys/kernel/panic) 2>&1; (echo > /fixed/new) 2>&1"
    with attempt.run(root, without("/dev", "/dev/pts"), edit, script=script) as said:
        assert said.count("Read-only file system") == 2 and len(said.splitlines()) == 2, said
    attempt.harmless(root, without("/dev", "/dev/pts"), edit)


@pytest.mark.parametrize("target", [*(f"{link}/secret" for link in LINKS), "/proc/sys/kernel/core_pattern"])
def test_cve_2025_52565_a_console_that_is_a_link(attempt: Attempt, target: str) -> None:
    """CVE-2025-52565: the terminal's second name is a link, to the guest's files or to a path that is read-only."""
    before = Path("/proc/sys/kernel/core_pattern").read_text()
    for inside in (True, False):
        root = attempt.root(inside=inside)
        (root / "dev/pts").mkdir()
        (root / "dev/console").symlink_to(target)
        terminal: Edit = lambda spec: {**spec, "process": {**spec["process"], "terminal": True}}  # noqa: E731
        attempt.harmless(root, without("/dev"), terminal)
        script = f"echo evil > {target}; echo done"
        with attempt.run(root, without("/dev"), terminal, script=script):
            assert Path("/proc/sys/kernel/core_pattern").read_text() == before


@pytest.mark.parametrize("name", ["kernel.core_pattern", "kernel.shm_rmid_forced/../core_pattern", "../../run/x"])
def test_cve_2025_52881_kernel_settings_that_lead_elsewhere(attempt: Attempt, name: str, tmp_path: Path) -> None:
    """CVE-2025-52881: what is written to the kernel for a container reaches the settings of its namespaces alone."""
    before = Path("/proc/sys/kernel/core_pattern").read_text()

    def setting(key: str, value: str) -> Edit:
        return lambda spec: {**spec, "linux": {**spec["linux"], "sysctl": {key: value}}}

    root = attempt.root(inside=True)
    assert "not namespaced" in attempt.harmless(root, setting(name, "|/evil"))
    (tmp_path / "shm_rmid_forced").symlink_to("/proc/sys/kernel/core_pattern")
    attempt.harmless(root, mounted(bind(tmp_path, "/proc/sys/kernel")), setting("kernel.shm_rmid_forced", "1"))
    assert Path("/proc/sys/kernel/core_pattern").read_text() == before


def test_cve_2025_24965_orders_to_crun_in_annotations(attempt: Attempt) -> None:
    """CVE-2025-24965, and what else tenants could tell crun: of its handlers, files and filters nothing reaches it."""
    root = attempt.root(inside=True)
    (root / ".krun_config.json").symlink_to(f"{VICTIM}/secret")
    orders = {
        "run.oci.handler": "krun",
        "run.oci.hooks.stdout": f"{VICTIM}/out",
        "run.oci.pidfd_receiver": f"{VICTIM}/socket",
        "run.oci.seccomp_bpf_data": "BgAAAAAA/38=",
        "run.oci.delegate-cgroup": "below",
        "module.wasm.image/variant": "compat",
    }
    refused = {"names": ["chmod", "fchmodat", "fchmodat2"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}

    def edit(spec: Spec) -> Spec:
        seccomp = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [refused]}
        return {**spec, "annotations": orders, "linux": {**spec["linux"], "seccomp": seccomp}}  # type: ignore[typeddict-item]

    script = "busybox grep 0:: /proc/self/cgroup; busybox chmod 1 /tmp 2>&1; echo end"
    with attempt.run(root, edit, script=script) as said:
        assert said.splitlines()[0] == "0::/", "no cgroup below the container's own was made"
        assert "Operation not permitted" in said, "the specification's filter holds, not the annotation's"
        assert said.endswith("end\n")
    assert attempt.harmless(root, edit) == ""

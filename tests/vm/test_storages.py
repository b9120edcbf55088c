"""Storages in a real guest: a watched volume, groups, huge pages, a disk that grows while mounted, swap space.

One VM for the whole module; the requests go straight to its agent.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from google.protobuf.message import Message

from kata import paths
from kata.hypervisor.machine import Disk, MachineSpec, SharedDirectory
from kata.hypervisor.qemu.machine import QemuMachine
from kata.oci.convert import process_to_proto
from kata.protocol.client import Client, connect_agent
from kata.protocol.generated import agent_pb2, csi_pb2
from kata.protocol.status import Code, RpcError
from kata.protocol.transport import dial
from tests.helpers.share import Volume, share_volumes
from tests.kernel.test_agent import create_request, make_process, make_rootfs
from tests.unit.agent.test_mirror import Volume as ConfigMap

pytestmark = [pytest.mark.vm, pytest.mark.root, pytest.mark.usefixtures("busybox")]

UID = 1_879_048_193
MIB = 1 << 20
RUN = "/run/kata-containers"
SHARE = f"{RUN}/shared/containers"
VOLUME = f"{RUN}/sandbox/volume"
PAGES = "/proc/sys/vm/nr_hugepages"


class Guest:
    """The VM's machine, its agent, and a container that sees the guest's storages."""

    def __init__(self, machine: QemuMachine, client: Client, config_map: ConfigMap) -> None:
        self.machine, self.client, self.config_map = machine, client, config_map
        self._execs = 0

    def call(self, method: str, request: Message) -> Message:
        return self.client.call(f"grpc.AgentService/{method}", request, timeout=60.0)

    def run(self, script: str) -> str:
        """What a shell in the container says."""
        self._execs += 1
        ids = {"container_id": "box", "exec_id": f"e{self._execs}"}
        process = process_to_proto(make_process("sh", "-c", script))
        request = agent_pb2.ExecProcessRequest(process=process, container_id="box", exec_id=ids["exec_id"])
        self.call("ExecProcess", request)
        said = b""
        while data := self.read(ids):
            said += data
        return said.decode()

    def read(self, ids: dict[str, str]) -> bytes:
        reply = self.call("ReadStdout", agent_pb2.ReadStreamRequest(len=65536, **ids))
        assert isinstance(reply, agent_pb2.ReadStreamResponse)
        return reply.data

    def add(self, container_id: str, *storages: agent_pb2.Storage) -> None:
        """Another container, for its storages alone."""
        request = create_request(container_id, f"/{container_id}", Path(f"{SHARE}/v0"), "true")
        request.storages.extend(storages)
        self.call("CreateContainer", request)

    def remove(self, container_id: str) -> None:
        self.call("RemoveContainer", agent_pb2.RemoveContainerRequest(container_id=container_id))


def storage(driver: str, place: str, **fields: object) -> agent_pb2.Storage:
    return agent_pb2.Storage(driver=driver, mount_point=place, **fields)  # type: ignore[arg-type]


def make_disks(folder: Path) -> tuple[Disk, ...]:
    for name in ("volume", "swap"):
        (folder / name).touch()
        os.truncate(folder / name, 64 * MIB)
    subprocess.run(["mkfs.ext4", "-q", folder / "volume"], check=True, capture_output=True)
    return tuple(Disk(str(folder / name), name, readonly=False) for name in ("volume", "swap"))


def start_container(guest: Guest) -> None:
    share = storage("virtio-fs", SHARE, source="kataShared", fstype="virtiofs", options=["nodev"])
    guest.call("CreateSandbox", agent_pb2.CreateSandboxRequest(sandbox_id="storages", storages=[share]))
    group = agent_pb2.FSGroup(group_id=1234)
    request = create_request("box", "/box", Path(f"{SHARE}/v0"), "sleep", "100000")
    request.storages.extend(
        [
            storage("watchable-bind", f"{RUN}/sandbox/watched", source=f"{SHARE}/v1"),
            storage("ephemeral", f"{RUN}/sandbox/empty", fstype="tmpfs", options=["size=1m"], fs_group=group),
            storage("local", f"{RUN}/sandbox/local", options=["mode=0777"], fs_group=group),
        ]
    )
    for name in ("watched", "empty", "local"):
        mount = request.OCI.Mounts.add(destination=f"/{name}", source=f"{RUN}/sandbox/{name}", type="bind")
        mount.options.append("rbind")
    guest.call("CreateContainer", request)
    guest.call("StartContainer", agent_pb2.StartContainerRequest(container_id="box"))


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory, busybox: str) -> Iterator[Guest]:
    folder = tmp_path_factory.mktemp("storages")
    (folder / "watched").mkdir()
    (folder / "vm").mkdir(mode=0o700)
    rootfs = make_rootfs(folder / "rootfs")
    for name in ("watched", "empty", "local"):
        (rootfs / name).mkdir()
    (rootfs / "bin/stat").symlink_to("busybox")
    assets = paths.assets_dir()
    with ExitStack() as stack:
        config_map = ConfigMap(folder / "watched")
        stack.callback(config_map.mirror.close)
        config_map.publish(key="first")
        volumes = [Volume(str(rootfs), readonly=False), Volume(str(config_map.source))]
        share = stack.enter_context(share_volumes(volumes, str(folder / "vm")))
        spec = MachineSpec(
            sandbox_id="storages",
            directory=str(folder / "vm"),
            kernel=str(assets / "vmlinuz"),
            initrd=str(assets / "initrd.img") if (assets / "initrd.img").exists() else None,
            image=str(assets / "kata-containers.img"),
            accelerator="tcg",
            transport="serial",
            disks=make_disks(folder),
            shares=(SharedDirectory(share.tag, share.socket_path),),
            uid=UID,
            gid=UID,
        )
        machine = stack.enter_context(QemuMachine(spec))
        machine.boot()
        client = connect_agent(lambda: dial(machine.agent_address(), 60.0), 90.0)
        stack.callback(client.close)
        made = Guest(machine, client, config_map)
        start_container(made)
        yield made


def test_a_watched_volume_follows_the_host_within_two_seconds(guest: Guest) -> None:
    assert guest.run("cat /watched/key") == "first"
    for text in ("second", "third"):
        guest.config_map.publish(key=text)
        (guest.config_map.source / "..data" / "key").chmod(0o640)
        changed = time.monotonic()
        while guest.run("cat /watched/key") != text:
            assert time.monotonic() - changed < 2.0
    time.sleep(2.0)  # removals and modes come with the pass after, at the latest
    assert guest.run("stat -L -c %a /watched/key; ls -A /watched").split() == ["640", "..data", "..dated-3", "key"]


def test_directories_of_a_group(guest: Guest) -> None:
    said = guest.run("stat -c '%g %a' /empty /local; touch /empty/new; stat -c %g /empty/new")
    assert said.splitlines() == ["1234 3777", "1234 2777", "1234"]


def test_an_ephemeral_mount_grows(guest: Guest) -> None:
    assert "size=1024k" in guest.run("grep ' /empty ' /proc/mounts || cat /proc/mounts")
    larger = storage("ephemeral", f"{RUN}/sandbox/empty", fstype="tmpfs", options=["size=3m"])
    guest.call("UpdateEphemeralMounts", agent_pb2.UpdateEphemeralMountsRequest(storages=[larger]))
    guest.run("dd if=/dev/zero of=/empty/large bs=1024 count=2500 2>&1")
    reply = guest.call("GetVolumeStats", agent_pb2.VolumeStatsRequest(volume_guest_path=f"{RUN}/sandbox/empty"))
    assert isinstance(reply, csi_pb2.VolumeStatsResponse)
    usage = {entry.unit: entry for entry in reply.usage}[csi_pb2.VolumeUsage.BYTES]
    assert usage.total == 3 * MIB and usage.used >= 2500 * 1024


def test_huge_pages_are_had_and_given_back(guest: Guest) -> None:
    sizes = ["pagesize=2097152", f"size={4 * MIB}"]
    before = guest.run(f"cat {PAGES}")
    guest.add("huge", storage("ephemeral", f"{RUN}/sandbox/huge", fstype="hugetlbfs", options=sizes))
    assert int(guest.run(f"cat {PAGES}")) == int(before) + 2
    guest.remove("huge")
    assert guest.run(f"cat {PAGES}") == before
    with pytest.raises(RpcError, match="huge pages could be had"):
        sizes[1] = f"size={1024 * MIB}"
        guest.add("huge", storage("ephemeral", f"{RUN}/sandbox/huge", fstype="hugetlbfs", options=sizes))
    assert guest.run(f"cat {PAGES}") == before


def test_an_empty_disk_becomes_swap_space(guest: Guest) -> None:
    driver, source = guest.machine.disk_address("swap")
    assert driver == "blk"
    slots = [int(slot, 16) for slot in source.split("/")]
    guest.call("AddSwap", agent_pb2.AddSwapRequest(PCIPath=slots))
    [line] = guest.run("cat /proc/swaps").splitlines()[1:]
    name, _, size = line.split()[:3]
    assert int(size) == 64 * 1024 - 4
    guest.call("AddSwapPath", agent_pb2.AddSwapPathRequest(path=name))  # it is there already
    assert len(guest.run("cat /proc/swaps").splitlines()) == 2
    with pytest.raises(RpcError, match="in use") as caught:
        guest.call("AddSwapPath", agent_pb2.AddSwapPathRequest(path="/dev/vda"))
    assert caught.value.code in (Code.FAILED_PRECONDITION, Code.INTERNAL)


def test_stale_handles_and_memory_addresses(guest: Guest) -> None:
    guest.call("RemoveStaleVirtiofsShareMounts", agent_pb2.RemoveStaleVirtiofsShareMountsRequest())
    with pytest.raises(RpcError) as caught:
        guest.call("MemHotplugByProbe", agent_pb2.MemHotplugByProbeRequest(memHotplugProbeAddr=[1 << 32]))
    assert caught.value.code in (Code.UNIMPLEMENTED, Code.INTERNAL)


@pytest.mark.skipif(
    importlib.util.find_spec("kata.agent.modules") is None, reason="the agent cannot load the module ext4 by itself"
)
def test_a_disk_grows_while_it_is_mounted(guest: Guest) -> None:
    _, source = guest.machine.disk_address("volume")
    group = agent_pb2.FSGroup(group_id=77)
    guest.add("grown", storage("blk", VOLUME, source=source, fstype="ext4", fs_group=group))
    before = total(guest)
    guest.machine.qmp.execute("block_resize", {"node-name": "disk1", "size": 192 * MIB})
    guest.call("ResizeVolume", agent_pb2.ResizeVolumeRequest(volume_guest_path=VOLUME, size=192 * MIB))
    assert total(guest) > before + 100 * MIB
    with pytest.raises(RpcError, match="are wanted") as caught:
        guest.call("ResizeVolume", agent_pb2.ResizeVolumeRequest(volume_guest_path=VOLUME, size=512 * MIB))
    assert caught.value.code == Code.DEADLINE_EXCEEDED
    guest.remove("grown")
    with pytest.raises(RpcError):
        total(guest)


def total(guest: Guest) -> int:
    reply = guest.call("GetVolumeStats", agent_pb2.VolumeStatsRequest(volume_guest_path=VOLUME))
    assert isinstance(reply, csi_pb2.VolumeStatsResponse)
    return reply.usage[0].total

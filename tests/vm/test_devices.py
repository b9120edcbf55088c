"""Devices in a real guest: disks that come while it runs, numbers that are swapped, device rules, VFIO behind an
IOMMU, persistent memory with DAX, 9p, and devices described by CDI.

One VM for the whole module; the requests go straight to its agent.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message

from kata import paths
from kata.hypervisor.errors import HypervisorError, NoPlaceError, QmpTimeoutError
from kata.hypervisor.machine import Disk, DiskAddress, DiskOptions, Hardware, MachineSpec, NinePDirectory
from kata.hypervisor.qemu.hotplug import PciDevice
from kata.hypervisor.qemu.machine import QemuMachine
from kata.oci.convert import process_to_proto
from kata.protocol.client import Client, connect_agent
from kata.protocol.generated import agent_pb2
from kata.protocol.status import Code, RpcError
from kata.protocol.transport import dial
from tests.helpers import pmem
from tests.kernel.test_agent import create_request, make_process, make_rootfs

pytestmark = [pytest.mark.vm, pytest.mark.root, pytest.mark.usefixtures("assets")]

UID = 1_879_048_194
MIB = 1 << 20
RUN = "/run/kata-containers/sandbox"
APPLETS = ("grep", "ls", "mkdir", "mknod", "mount", "od", "printf", "readlink", "rm", "stat", "tr")
FOLDERS = ("guest", "data", "cdi")
CAPABILITIES = ["CAP_MKNOD", "CAP_DAC_OVERRIDE"]
ROOT_DISK = (254, 0)
"""Of the guest's root disk: the first virtio disk (the kernel's dynamic major number; checked by a test)."""
HOST_NIC = "0000:3b:00.0"
DISK_OPTIONS = DiskOptions(
    aio="io_uring",
    direct=True,
    no_flush=True,
    logical_sector=512,
    physical_sector=4096,
    queues=2,
    queue_size=64,
    thread=True,
)
HARDWARE = Hardware(
    firmware="/usr/share/seabios/bios-256k.bin",
    random_source="/dev/random",
    machine_options="mem-merge=off",
    cpu_features="pmu=off,-rdrand",
)


class Guest:
    """The VM's machine, its agent, and containers with some capabilities in it."""

    def __init__(self, machine: QemuMachine, client: Client, folder: Path) -> None:
        self.machine, self.client, self.folder = machine, client, folder
        self._count = 0
        self._containers: list[str] = []

    def call(self, method: str, request: Message) -> Message:
        return self.client.call(f"grpc.AgentService/{method}", request, timeout=90.0)

    def start(self, name: str, *devices: agent_pb2.Device, **more: Any) -> None:
        """A container that does nothing until it is removed; see `request`."""
        self.call("CreateContainer", self.request(name, *devices, **more))
        self._containers.append(name)
        self.call("StartContainer", agent_pb2.StartContainerRequest(container_id=name))

    def request(
        self,
        name: str,
        *devices: agent_pb2.Device,
        nodes: Sequence[tuple[str, str, int, int]] = (),
        rules: Sequence[tuple[str, int, int, str]] = (),
        env: Sequence[str] = (),
        mounts: Sequence[tuple[str, str]] = (),
        storages: Sequence[agent_pb2.Storage] = (),
        annotations: dict[str, str] | None = None,
    ) -> agent_pb2.CreateContainerRequest:
        """`nodes` are the spec's devices (path, type, major, minor) and `rules` its cgroup rules, in host numbers."""
        request = create_request(name, f"/{name}", Path(f"{RUN}/root"), "sleep", "100000", **process(env))
        request.devices.extend(devices)
        request.storages.extend(storages)
        for path, kind, major, minor in nodes:
            request.OCI.Linux.Devices.add(Path=path, Type=kind, Major=major, Minor=minor)
        for kind, major, minor, access in rules:
            request.OCI.Linux.Resources.Devices.add(Allow=True, Type=kind, Major=major, Minor=minor, Access=access)
        for target, source in mounts:
            request.OCI.Mounts.add(destination=target, source=source, type="bind", options=["rbind"])
        request.OCI.Annotations.update(annotations or {})
        return request

    def run(self, name: str, script: str, env: Sequence[str] = ()) -> str:
        """What a shell in a container says, on both streams."""
        self._count += 1
        ids: Any = {"container_id": name, "exec_id": f"e{self._count}"}
        message = process_to_proto(make_process("sh", "-c", f"{{ {script}\n}} 2>&1", **process(env)))
        self.call("ExecProcess", agent_pb2.ExecProcessRequest(process=message, **ids))
        said = b""
        while True:
            reply = self.call("ReadStdout", agent_pb2.ReadStreamRequest(len=65536, **ids))
            assert isinstance(reply, agent_pb2.ReadStreamResponse)
            if not reply.data:
                return said.decode()
            said += reply.data

    def remove(self, name: str) -> None:
        self.call("RemoveContainer", agent_pb2.RemoveContainerRequest(container_id=name))
        self._containers.remove(name)

    def clean(self) -> None:
        """Take away all containers but the first, and all devices that were added."""
        for name in self._containers[1:]:
            self.remove(name)
        for name in list(self.machine.hotplug.names()):
            self.machine.hotplug.remove(name)

    def disk(self, name: str, driver: str = "blk", size: int = 4 * MIB) -> Disk:
        """An image that QEMU's user could not open by itself, its first block filled with the disk's name."""
        path = self.folder / name
        path.write_bytes(name.encode() * 512 if len(name) == 1 else b"")
        os.truncate(path, size)
        path.chmod(0o600)
        return Disk(str(path), name, readonly=False, driver=driver)  # type: ignore[arg-type]  # a test's own word

    def numbers(self, name: str, path: str) -> tuple[int, int]:
        """Major and minor number of a node in a container."""
        major, minor = (int(word, 16) for word in self.run(name, f"stat -c '%t %T' {path}").split())
        return major, minor

    def guests_root(self, name: str) -> str:
        """What opening the guest's root disk gives in a container, by a node that it makes itself."""
        major, minor = ROOT_DISK
        return self.run(name, f"mknod /dev/stolen b {major} {minor} && head -c 1 /dev/stolen; rm -f /dev/stolen")


def process(env: Sequence[str] = ()) -> dict[str, object]:
    sets = ("bounding", "effective", "permitted")
    return {"env": ["PATH=/bin", *env], "capabilities": dict.fromkeys(sets, CAPABILITIES)}


def device(address: DiskAddress, path: str) -> agent_pb2.Device:
    fields = {"vm_path": address.source} if address.driver == "nvdimm" else {"id": address.source}
    return agent_pb2.Device(type=address.driver, container_path=path, **fields)


def storage(address: DiskAddress, place: str, fstype: str, *options: str) -> agent_pb2.Storage:
    return agent_pb2.Storage(
        driver=address.driver, source=address.source, fstype=fstype, options=options, mount_point=f"{RUN}/{place}"
    )


def make_disks(folder: Path) -> tuple[Disk, ...]:
    """The containers' root file system, and persistent memory with ext4 that knows DAX."""
    rootfs = make_rootfs(folder / "rootfs")
    for name in APPLETS:
        (rootfs / "bin" / name).symlink_to("busybox")
    for name in FOLDERS:
        (rootfs / name).mkdir()
    subprocess.run(["mkfs.erofs", "--quiet", folder / "rootfs.img", rootfs], check=True, capture_output=True)
    memory = folder / "pmem"
    memory.touch()
    os.truncate(memory, 64 * MIB)
    blocks = (memory.stat().st_size - pmem.DATA_OFFSET) // 4096
    offset = f"offset={pmem.DATA_OFFSET}"
    subprocess.run(
        ["mkfs.ext4", "-q", "-F", "-b", "4096", "-E", offset, memory, str(blocks)], check=True, capture_output=True
    )
    pmem.write_info(memory)
    memory.chmod(0o666)
    return (Disk(str(folder / "rootfs.img"), "rootfs"), Disk(str(memory), "pmem", readonly=False, driver="nvdimm"))


def machine_spec(folder: Path) -> MachineSpec:
    assets = paths.assets_dir()
    (folder / "vm").mkdir(mode=0o700)
    (folder / "shared").mkdir()
    (folder / "shared/file").write_text("by 9p")
    return MachineSpec(
        sandbox_id="devices",
        directory=str(folder / "vm"),
        kernel=str(assets / "vmlinuz"),
        initrd=str(assets / "initrd.img") if (assets / "initrd.img").exists() else None,
        image=str(assets / "kata-containers.img"),
        accelerator="tcg",
        transport="serial",
        kernel_params=("agent.hotplug_timeout=30", "agent.cdi_timeout=30", "agent.visible_cdi_devices=true"),
        disks=make_disks(folder),
        ninep=(NinePDirectory("shared9p", str(folder / "shared")),),
        pcie_root_ports=3,
        scsi_controller=True,
        iommu=True,
        disk_options=DISK_OPTIONS,
        hardware=HARDWARE,
        uid=UID,
        gid=UID,
    )


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    folder = tmp_path_factory.mktemp("devices")
    with ExitStack() as stack:
        machine = stack.enter_context(QemuMachine(machine_spec(folder)))
        machine.boot()
        client = connect_agent(lambda: dial(machine.agent_address(), 60.0), 120.0)
        stack.callback(client.close)
        made = Guest(machine, client, folder)
        root = storage(machine.disk_address("rootfs"), "root", "erofs", "ro")
        made.call("CreateSandbox", agent_pb2.CreateSandboxRequest(sandbox_id="devices", storages=[root]))
        made.start("box", mounts=[("/guest", "/")])
        yield made


@pytest.fixture(autouse=True)
def nothing_left(guest: Guest) -> Iterator[None]:
    """The containers and devices of a test can be taken away, and QEMU keeps no descriptor of them."""
    before = qemu_fds(guest)
    yield
    guest.clean()
    assert qemu_fds(guest) == before
    assert guest.machine.hotplug.names() == ()


def qemu_fds(guest: Guest) -> list[str]:
    folder = Path(f"/proc/{guest.machine.pid}/fd")
    return sorted(name for entry in folder.iterdir() if str(guest.folder) in (name := os.readlink(entry)))


def test_what_the_operator_wants_of_disks_and_machine(guest: Guest) -> None:
    qmp: Any = guest.machine.qmp  # its answers are QEMU's
    blk, scsi = guest.machine.add_disk(guest.disk("q")), guest.machine.add_disk(guest.disk("r", "scsi"))
    guest.start(
        "asks", device(blk, "/dev/q"), device(scsi, "/dev/r"), nodes=[("/dev/q", "b", 8, 0), ("/dev/r", "b", 8, 1)]
    )
    for name in ("q", "r"):
        major, minor = guest.numbers("asks", f"/dev/{name}")
        queue = f"/guest/sys/dev/block/{major}:{minor}/queue"
        assert guest.run("box", f"cat {queue}/physical_block_size {queue}/logical_block_size") == "4096\n512\n"
        assert guest.run("asks", f"head -c 1 /dev/{name}") == name
        assert (
            guest.run("asks", f"echo -n N | dd of=/dev/{name} bs=1 conv=fsync,notrunc; head -c 1 /dev/{name}")[-1]
            == "N"
        )
    places = [f"/machine/peripheral/{entry['name']}" for entry in qom_list(guest, "/machine/peripheral")]
    disks = [path for path in places if properties(guest, path) >= {"num-queues", "queue-size", "iothread"}]
    assert (
        [qmp.execute("qom-get", {"path": path, "property": "num-queues"}) for path in disks] == [2] * len(disks) != []
    )
    assert [entry["id"] for entry in qmp.execute("query-iothreads")] == ["disks"]
    nodes = [node for node in qmp.execute("query-named-block-nodes", {"flat": True}) if node["drv"] == "raw"]
    assert nodes and all(node["cache"] == {"direct": True, "no-flush": True, "writeback": True} for node in nodes)
    assert qmp.execute("qom-get", {"path": "/objects/rng", "property": "filename"}) == "/dev/random"
    assert qmp.execute("qom-get", {"path": "/machine", "property": "mem-merge"}) is False
    flags = guest.run("box", "grep -m1 flags /proc/cpuinfo").split()
    assert "rdrand" not in flags and "aes" in flags


def qom_list(guest: Guest, path: str) -> list[dict[str, str]]:
    return [entry for entry in _qom_list(guest, path) if entry["type"].startswith("child<")]


def properties(guest: Guest, path: str) -> set[str]:
    return {entry["name"] for entry in _qom_list(guest, path)}


def _qom_list(guest: Guest, path: str) -> list[dict[str, str]]:
    qmp: Any = guest.machine.qmp
    found: list[dict[str, str]] = qmp.execute("qom-list", {"path": path})
    return found


def test_two_disks_whose_numbers_are_swapped(guest: Guest) -> None:
    """Each disk has on the host the numbers that the other has in the guest; rules and nodes go by the device."""
    first, second = (guest.machine.add_disk(guest.disk(name)) for name in "ab")
    both = (device(first, "/dev/one"), device(second, "/dev/two"))
    guest.start("look", *both, nodes=[("/dev/one", "b", 8, 0), ("/dev/two", "b", 8, 16)])
    one, two = guest.numbers("look", "/dev/one"), guest.numbers("look", "/dev/two")
    guest.remove("look")
    assert one != two

    guest.start(
        "swapped",
        *reversed(both),
        nodes=[("/dev/one", "b", *two), ("/dev/two", "b", *one)],
        rules=[("b", *two, "rwm"), ("b", *one, "rwm")],
    )
    assert guest.numbers("swapped", "/dev/one") == one
    assert guest.numbers("swapped", "/dev/two") == two
    assert guest.run("swapped", "head -c 1 /dev/one; head -c 1 /dev/two") == "ab"
    for path, text in (("/dev/one", "FIRST"), ("/dev/two", "SECOND")):
        guest.run("swapped", f"echo -n {text} | dd of={path} conv=fsync,notrunc")
    assert (guest.folder / "a").read_bytes()[:6] == b"FIRSTa"
    assert (guest.folder / "b").read_bytes()[:6] == b"SECOND"


def test_a_container_opens_its_own_disk_alone(guest: Guest) -> None:
    """CVE-2020-2023: a node of the guest's root disk can be made, but never opened; nor can any other disk's."""
    major, minor = ROOT_DISK
    assert guest.run("box", "cat /guest/sys/class/block/vda/dev").strip() == f"{major}:{minor}"
    first, second = (guest.machine.add_disk(guest.disk(name)) for name in "cd")
    nodes = [("/dev/mine", "b", 8, 0), ("/dev/other", "b", 8, 16)]
    guest.start("both", device(first, "/dev/mine"), device(second, "/dev/other"), nodes=nodes)
    other = guest.numbers("both", "/dev/other")
    guest.start("one", device(first, "/dev/mine"), nodes=nodes[:1], rules=[("b", 8, 0, "rw")])

    def steal(name: str) -> str:
        return guest.run(name, f"mknod /dev/x b {other[0]} {other[1]} && head -c 1 /dev/x; rm -f /dev/x")

    for name in ("one", "both", "box"):
        assert "Operation not permitted" in guest.guests_root(name)
    assert guest.run("one", "head -c 1 /dev/mine") == "c"
    assert "Operation not permitted" in steal("one")
    assert steal("both") == "d", "the same steps do open a disk that the rules allow"


def test_scsi_disks_as_device_and_as_storage(guest: Guest) -> None:
    raw = guest.machine.add_disk(guest.disk("s", "scsi"))
    image = guest.disk("formatted", "scsi", 16 * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-F", image.path], check=True, capture_output=True)
    mounted = guest.machine.add_disk(image)
    assert (raw.driver, mounted.driver) == ("scsi", "scsi")
    assert guest.machine.disk_address("s") == raw
    guest.start(
        "scsi",
        device(raw, "/dev/raw"),
        nodes=[("/dev/raw", "b", 8, 0)],
        storages=[storage(mounted, "scsi", "ext4")],
        mounts=[("/data", f"{RUN}/scsi")],
    )
    assert guest.run("scsi", "head -c 1 /dev/raw; echo kept >/data/file && cat /data/file") == "skept\n"
    guest.remove("scsi")
    for name in ("s", "formatted"):
        guest.machine.remove_disk(name)
    with pytest.raises(HypervisorError, match="no disk"):
        guest.machine.disk_address("s")


def test_a_disk_that_is_gone_is_not_found_again(guest: Guest) -> None:
    address = guest.machine.add_disk(guest.disk("e"))
    guest.machine.remove_disk("e")
    again = guest.machine.add_disk(guest.disk("f"))
    assert again == address, "the port is free again"
    guest.start("again", device(again, "/dev/x"), nodes=[("/dev/x", "b", 8, 0)])
    assert guest.run("again", "head -c 1 /dev/x") == "f"


def test_a_full_machine_says_so_and_keeps_nothing(guest: Guest) -> None:
    for name in "ghi":
        guest.machine.add_disk(guest.disk(name))
    with pytest.raises(NoPlaceError, match="all 3 root ports"):
        guest.machine.add_disk(guest.disk("j"))
    guest.machine.add_disk(guest.disk("s", "scsi"))
    for taken in ("s", "g", "rootfs"):
        with pytest.raises(HypervisorError, match="already"):
            guest.machine.add_disk(Disk("/dev/null", taken, driver="scsi"))


def test_a_guest_that_does_not_let_go_keeps_the_disk(guest: Guest) -> None:
    address = guest.machine.add_disk(guest.disk("k"))
    guest.machine.qmp.execute("stop")
    with pytest.raises(QmpTimeoutError):
        guest.machine.hotplug.remove("k", timeout=0.5)
    assert guest.machine.disk_address("k") == address
    guest.machine.qmp.execute("cont")
    guest.machine.remove_disk("k")
    with pytest.raises(HypervisorError, match="was added"):
        guest.machine.remove_disk("k")


def test_a_device_that_qemu_refuses_leaves_nothing(guest: Guest) -> None:
    for wanted in (PciDevice("x", "no-such-device"), PciDevice("x", "e1000e", {"nonsense": 1})):
        with pytest.raises(HypervisorError, match="refused device_add"):
            guest.machine.hotplug.add_pci(wanted)
    with pytest.raises(HypervisorError, match="cannot be opened"):
        guest.machine.add_disk(Disk("/nonexistent", "none"))
    with pytest.raises(HypervisorError, match="refused"):
        guest.machine.add_disk(Disk("/dev/null", "null"))


def test_a_function_for_the_container_to_drive(guest: Guest) -> None:
    path = guest.machine.hotplug.add_pci(PciDevice("nic", "e1000e", {"romfile": ""}))
    vfio = agent_pb2.Device(type="vfio-pci", id="7", container_path="/dev/vfio/7", options=[f"{HOST_NIC}={path}"])
    env = [f"PCIDEVICE_NIC={HOST_NIC}", f'PCIDEVICE_NIC_INFO={{"{HOST_NIC}":{{}}}}', f"OTHER={HOST_NIC}"]
    guest.start("vfio", vfio, nodes=[("/dev/vfio/7", "c", 511, 7)], rules=[("c", 511, 7, "rw")], env=env)
    address = guest.run("vfio", "tr '\\0' '\\n' </proc/1/environ | grep ^PCIDEVICE_NIC=").strip().partition("=")[2]
    assert address != HOST_NIC
    group = guest.run("box", f"readlink /guest/sys/bus/pci/devices/{address}/iommu_group").strip().rpartition("/")[2]
    assert guest.run("box", f"readlink /guest/sys/bus/pci/devices/{address}/driver").endswith("/vfio-pci\n")
    assert guest.run("vfio", "ls /dev/vfio").split() == [group]
    assert guest.run("vfio", f"exec 3<>/dev/vfio/{group} && echo opened") == "opened\n"
    assert guest.run("vfio", "echo $PCIDEVICE_NIC $PCIDEVICE_NIC_INFO $OTHER", env).split() == [
        address,
        f'{{"{address}":{{}}}}',
        HOST_NIC,
    ]


def test_a_function_that_the_guests_kernel_drives(guest: Guest) -> None:
    path = guest.machine.hotplug.add_pci(
        PciDevice("nic", "virtio-rng-pci", {"disable-legacy": "on", "rng": "/objects/rng"})
    )
    vfio = agent_pb2.Device(type="vfio-pci-gk", id="7", container_path="/dev/vfio/7", options=[f"{HOST_NIC}={path}"])
    env = [f"PCIDEVICE_X={HOST_NIC}"]
    guest.start("init", vfio, env=env)
    guest.remove("init")
    guest.start("gk", vfio, env=env)  # after an init container that had the same device
    address = guest.run("gk", "tr '\\0' '\\n' </proc/1/environ | grep PCIDEVICE").strip().partition("=")[2]
    assert guest.run("box", f"readlink /guest/sys/bus/pci/devices/{address}/driver").endswith("/virtio-pci\n")
    assert "No such file" in guest.run("gk", "ls /dev/vfio")
    assert guest.run("gk", "echo $PCIDEVICE_X", env) == f"{address}\n"
    assert guest.run("box", "echo $PCIDEVICE_X", env) == f"{HOST_NIC}\n", "another container has no such device"


def test_persistent_memory_as_device_and_with_dax(guest: Guest) -> None:
    address = guest.machine.disk_address("pmem")
    assert address == ("nvdimm", "/dev/pmem0")
    guest.start("pmem", device(address, "/dev/memory"), nodes=[("/dev/memory", "b", 8, 0)])
    assert guest.numbers("pmem", "/dev/memory")[0] == 259
    magic = guest.run("pmem", "dd if=/dev/memory bs=1 skip=1080 count=2 2>/dev/null | od -t x1 | head -n 1")
    assert magic.split()[1:] == ["53", "ef"], "the superblock of ext4 (ext4_super_block.s_magic)"
    guest.remove("pmem")
    guest.start("dax", storages=[storage(address, "dax", "ext4", "dax")], mounts=[("/data", f"{RUN}/dax")])
    assert "dax" in guest.run("dax", "grep ' /data ' /proc/mounts")
    guest.run("dax", "echo remembered >/data/file; sync")
    guest.remove("dax")
    assert b"remembered" in (guest.folder / "pmem").read_bytes()


def test_a_directory_by_9p(guest: Guest) -> None:
    options = ("trans=virtio", "version=9p2000.L", "ro")
    share = storage(DiskAddress("9p", "shared9p"), "shared", "9p", *options)
    guest.start("ninep", storages=[share], mounts=[("/data", f"{RUN}/shared")])
    assert guest.run("ninep", "cat /data/file") == "by 9p"
    assert "Read-only" in guest.run("ninep", "echo no >/data/file")


CDI = {
    "cdiVersion": "0.6.0",
    "kind": "test.example/thing",
    "containerEdits": {"env": ["THING=1"]},
    "devices": [
        {
            "name": "0",
            "containerEdits": {
                "deviceNodes": [{"path": "/dev/thing", "hostPath": "/dev/pmem0", "permissions": "r"}],
                "mounts": [{"hostPath": "/etc", "containerPath": "/data", "options": ["ro", "rbind"]}],
            },
        }
    ],
}


def test_a_cdi_device_that_is_described_later(guest: Guest) -> None:
    """The container is created while the guest's folder is empty; the file comes, and with it node, mount and env."""
    guest.start("driver", mounts=[("/guest", "/run")])
    guest.start("pm", device(guest.machine.disk_address("pmem"), "/dev/m"), nodes=[("/dev/m", "b", 8, 0)])
    numbers = guest.numbers("pm", "/dev/m")
    guest.remove("pm")
    write = f"(sleep 2; mkdir -p /guest/cdi; printf '%s' '{json.dumps(CDI)}' >/guest/cdi/thing.json) >/dev/null &"
    guest.run("driver", write)
    guest.start("cdi", annotations={"cdi.k8s.io/vfio1": "test.example/thing=0"})
    assert guest.numbers("cdi", "/dev/thing") == numbers
    assert guest.run("cdi", "head -c 1 /dev/thing >/dev/null && echo read; echo >/dev/thing").splitlines() == [
        "read",
        "sh: can't create /dev/thing: Operation not permitted",
    ]
    assert guest.run("cdi", "tr '\\0' '\\n' </proc/1/environ | grep THING") == "THING=1\n"
    assert "passwd" in guest.run("cdi", "ls /data")
    guest.start("visible", env=["VISIBLE_CDI_DEVICES=test.example/thing=0"])
    assert guest.numbers("visible", "/dev/thing") == numbers
    with pytest.raises(RpcError, match="does not exist") as caught:
        guest.start("none", annotations={"cdi.k8s.io/vfio1": "test.example/thing=7"})
    assert caught.value.code == Code.INTERNAL

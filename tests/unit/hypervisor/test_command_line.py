"""The argv of QEMU, option by option, and what is refused before it is made."""

from __future__ import annotations

import errno
import json
import os
from contextlib import ExitStack
from typing import Any

import msgspec
import pytest

from kata.hypervisor.errors import HypervisorError, SpecError
from kata.hypervisor.machine import (
    Disk,
    DiskOptions,
    Hardware,
    HostDevice,
    MachineSpec,
    NinePDirectory,
    PublishedPort,
    Saved,
    SharedDirectory,
    TapNic,
    UserNetwork,
)
from kata.hypervisor.qemu import files
from kata.hypervisor.qemu.command_line import Resolved, command_line, kernel_line
from kata.hypervisor.qemu.devices import VsockEndpoint, disk_address
from kata.hypervisor.qemu.machine import QemuMachine
from kata.hypervisor.qemu.nics import nic_fds

SPEC = MachineSpec(sandbox_id="abc", directory="/run/vc/vm/abc", kernel="/k", initrd=None, image="/i", memory_mib=128)
MAC = "02:00:00:00:00:01"


def with_spec(**changes: Any) -> MachineSpec:
    return msgspec.structs.replace(SPEC, **changes)


def argv(spec: MachineSpec = SPEC, **changes: Any) -> list[str]:
    disks = len(spec.disks) + (spec.image is not None)
    values: dict[str, Any] = {
        "binary": "qemu",
        "accelerator": "tcg",
        "qmp_fd": 3,
        "console_fd": 4,
        "port_fds": (5, 6, 7)[: 1 + spec.debug_console + spec.agent_log],
        "disk_fds": tuple(range(20, 20 + disks)),
        "share_fds": tuple(range(40, 40 + len(spec.shares))),
        "ninep_fds": tuple(range(50, 50 + len(spec.ninep))),
        "pmem_sizes": tuple(2 << 20 for disk in spec.disks if disk.driver == "nvdimm"),
    }
    return command_line(spec, Resolved(**{**values, **changes}))


def options(words: list[str], name: str) -> list[str]:
    return [words[index + 1] for index, word in enumerate(words) if word == name]


def objects(words: list[str], name: str) -> list[dict[str, Any]]:
    return [json.loads(value) for value in options(words, name)]


@pytest.mark.parametrize("machine_type", ["q35", "microvm"])
def test_always_confined_and_bare(machine_type: Any) -> None:
    words = argv(with_spec(machine_type=machine_type))
    assert {"-nodefaults", "-no-user-config", "-nographic", "-no-reboot"} <= set(words)
    assert options(words, "-sandbox") == ["on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]
    assert options(words, "-machine")[0].split(",")[0] == machine_type


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("-name", ["sandbox-abc,debug-threads=on"]),
        ("-m", ["size=128M"]),
        ("-smp", ["cpus=1,sockets=1,cores=1,threads=1"]),
        ("-cpu", ["max,la57=off,erms=off,pmu=off"]),
        ("-kernel", ["/k"]),
        ("-initrd", []),
        ("-netdev", []),
        ("-mon", ["chardev=qmp,mode=control"]),
        ("-serial", ["chardev:console"]),
        (
            "-chardev",
            ["socket,id=qmp,fd=3", "socket,id=console,fd=4", "socket,id=agent,fd=5,server=on,wait=off"],
        ),
        ("-add-fd", ["fd=20,set=0"]),
    ],
)
def test_plain_options(option: str, expected: list[str]) -> None:
    assert options(argv(), option) == expected


@pytest.mark.parametrize(
    ("accelerator", "accel", "cpu"),
    [("kvm", "kvm", "host,pmu=off"), ("tcg", "tcg,thread=single,tb-size=256", "max,la57=off,erms=off,pmu=off")],
)
def test_accelerator_decides_the_cpu(accelerator: str, accel: str, cpu: str) -> None:
    words = argv(accelerator=accelerator)
    assert (options(words, "-accel"), options(words, "-cpu")) == ([accel], [cpu])


def test_memory_is_shared_only_for_a_share() -> None:
    assert objects(argv(), "-object")[0] == {"qom-type": "memory-backend-ram", "id": "ram", "size": 128 << 20}
    words = argv(with_spec(shares=(SharedDirectory("kataShared", "/s"),)))
    assert objects(words, "-object")[0] == {
        "qom-type": "memory-backend-memfd",
        "id": "ram",
        "size": 128 << 20,
        "share": True,
    }
    assert "socket,id=fs0,fd=40" in options(words, "-chardev")
    assert objects(words, "-device")[-1]["tag"] == "kataShared"


def test_room_to_grow() -> None:
    grows = with_spec(vcpus=2, max_vcpus=8, max_memory_mib=1024, memory_slots=3)
    words = argv(grows)
    assert options(words, "-smp") == ["cpus=2,maxcpus=8,sockets=1,cores=8,threads=1"]
    assert options(words, "-m") == [f"size=128M,slots=3,maxmem={1024 << 20}"]
    huge = argv(with_spec(max_memory_mib=1 << 30, memory_slots=3))
    assert options(huge, "-m") == [f"size=128M,slots=3,maxmem={512 << 30}"], "TCG has no more address space"
    assert options(argv(with_spec(max_memory_mib=64, memory_slots=3)), "-m") == ["size=128M"]
    small = argv(with_spec(machine_type="microvm", max_vcpus=8, max_memory_mib=1024, memory_slots=3))
    assert (options(small, "-smp"), options(small, "-m")) == (["cpus=1,sockets=1,cores=1,threads=1"], ["size=128M"])


@pytest.mark.parametrize(
    ("machine_type", "driver"), [("q35", "virtio-balloon-pci"), ("microvm", "virtio-balloon-device")]
)
def test_a_balloon_gives_back_what_is_free(machine_type: Any, driver: str) -> None:
    words = argv(with_spec(machine_type=machine_type, balloon=True))
    (balloon,) = [d for d in objects(words, "-device") if d["driver"] == driver]
    assert (balloon["free-page-reporting"], balloon["deflate-on-oom"]) == (True, True)
    (source,) = [d for d in objects(words, "-device") if d["driver"].startswith("virtio-rng")]
    if machine_type == "q35":
        assert (source["addr"], source["multifunction"], balloon["addr"]) == ("2", True, "2.1")
    assert not [d for d in objects(argv(with_spec(machine_type=machine_type)), "-device") if "balloon" in d["driver"]]


def test_memory_of_huge_pages_taken_at_once() -> None:
    made = objects(argv(with_spec(hugepages=True, preallocate=True)), "-object")[0]
    assert made == {
        "qom-type": "memory-backend-memfd",
        "id": "ram",
        "size": 128 << 20,
        "hugetlb": True,
        "prealloc": True,
    }


def test_disks_have_fixed_slots_and_true_read_only() -> None:
    spec = with_spec(disks=(Disk("/d", "data", readonly=False),))
    words = argv(spec)
    nodes = objects(words, "-blockdev")
    assert [(n["node-name"], n["read-only"], n["file"]["read-only"]) for n in nodes] == [
        ("disk0", True, True),
        ("disk1", False, False),
    ]
    assert [n["file"]["filename"] for n in nodes] == ["/dev/fdset/0", "/dev/fdset/1"]
    blocks = [d for d in objects(words, "-device") if d["driver"] == "virtio-blk-pci"]
    assert [(d["addr"], d["serial"]) for d in blocks] == [("4", "kata-image"), ("5", "data")]
    assert disk_address(spec, "kata-image") == ("blk", "04")
    assert disk_address(spec, "data") == ("blk", "05")


def test_no_two_devices_share_a_slot() -> None:
    spec = with_spec(
        disks=tuple(Disk("/d", f"s{i}") for i in range(19)),
        shares=tuple(SharedDirectory(f"t{i}", "/s") for i in range(2)),
        ninep=tuple(NinePDirectory(f"n{i}", "/s") for i in range(2)),
        network=UserNetwork(MAC),
        pcie_root_ports=8,
        scsi_controller=True,
    )
    placed = [d["addr"] for d in objects(argv(spec), "-device") if "addr" in d]
    assert len(placed) == len(set(placed)) == 27 + 8 + 1
    slots = {int(addr.partition(".")[0], 16) for addr in placed}
    assert slots <= set(range(1, 0x1F))  # 0 and 1f are the chip set's own
    assert len(slots) == 27 + 1 + 1, "the root ports share one slot"


def test_root_ports_are_stable_and_on_q35_alone() -> None:
    ports = [d for d in objects(argv(with_spec(pcie_root_ports=2)), "-device") if d["driver"] == "pcie-root-port"]
    assert [(d["id"], d["addr"], d["chassis"], d["slot"], d["multifunction"]) for d in ports] == [
        ("port0", "1d.0", 1, 0, True),
        ("port1", "1d.1", 2, 1, True),
    ]
    for spec in (with_spec(pcie_root_ports=0), with_spec(machine_type="microvm")):
        assert not [d for d in objects(argv(spec), "-device") if d["driver"] == "pcie-root-port"]


def test_scsi_disks_are_targets_of_one_controller() -> None:
    spec = with_spec(disks=(Disk("/d", "a", driver="scsi"), Disk("/d", "b")), scsi_controller=True)
    devices = objects(argv(spec), "-device")
    [controller] = [d for d in devices if d["driver"] == "virtio-scsi-pci"]
    [disk] = [d for d in devices if d["driver"] == "scsi-hd"]
    assert (controller["id"], disk["bus"], disk["scsi-id"], disk["lun"]) == ("scsi", "scsi.0", 1, 0)
    assert devices.index(controller) < devices.index(disk)
    assert (disk_address(spec, "a"), disk_address(spec, "b")) == (("scsi", "1:0"), ("blk", "06"))
    assert "scsi_mod.scan=none" in kernel_line(spec).split()


def test_persistent_memory_is_memory_and_no_disk() -> None:
    spec = with_spec(disks=(Disk("/d", "m", driver="nvdimm"), Disk("/d", "b"), Disk("/e", "n", False, "nvdimm")))
    words = argv(spec)
    assert options(words, "-m") == [f"size=128M,slots=2,maxmem={(128 + 4) << 20}"]
    assert options(words, "-machine")[0].endswith(",nvdimm=on")
    files = [value for value in objects(words, "-object") if value["qom-type"] == "memory-backend-file"]
    assert [(f["mem-path"], f["size"], f["readonly"]) for f in files] == [
        ("/proc/self/fd/21", 2 << 20, True),
        ("/proc/self/fd/23", 2 << 20, False),
    ]
    assert [d["unarmed"] for d in objects(words, "-device") if d["driver"] == "nvdimm"] == [True, False]
    assert options(words, "-add-fd") == ["fd=20,set=0", "fd=22,set=2"]
    assert [disk_address(spec, name) for name in "mnb"] == [
        ("nvdimm", "/dev/pmem0"),
        ("nvdimm", "/dev/pmem1"),
        ("blk", "06"),
    ]


@pytest.mark.parametrize(("accelerator", "split"), [("kvm", True), ("tcg", False)])
def test_an_iommu_comes_before_what_is_behind_it(accelerator: str, split: bool) -> None:
    spec = with_spec(iommu=True)
    words = argv(spec, accelerator=accelerator)
    assert objects(words, "-device")[0]["driver"] == "intel-iommu"
    assert options(words, "-accel")[0].endswith(",kernel-irqchip=split") == split
    assert {"intel_iommu=on", "iommu=pt"} <= set(kernel_line(spec).split())
    assert "intel_iommu=on" not in kernel_line(SPEC)


def test_a_9p_directory_goes_by_its_descriptor() -> None:
    words = argv(with_spec(ninep=(NinePDirectory("n", NASTY), NinePDirectory("m", "/s", readonly=False))))
    first, second = options(words, "-fsdev")
    assert "path=/proc/self/fd/50,security_model=none,readonly=on" in first
    assert "path=/proc/self/fd/51,security_model=none,readonly=off" in second


def test_a_9p_directory_of_a_helper_goes_by_its_socket() -> None:
    words = argv(with_spec(ninep=(NinePDirectory("n", proxy_fd=50),)))
    assert options(words, "-fsdev") == ["proxy,id=ninep0,sock_fd=50"]


def test_a_9p_device_keeps_its_place_whatever_is_behind_it() -> None:
    """QEMU asks for the root of what is behind it at once, so an empty one is not a socket of nobody's."""
    empty = with_spec(ninep=(NinePDirectory("n"), NinePDirectory("m", "/s")))
    words = argv(empty, ninep_fds=(50,))
    assert options(words, "-fsdev")[0] == "synth,id=ninep0,readonly=on"
    assert options(words, "-fsdev")[1].startswith("local,id=ninep1,path=/proc/self/fd/50,")
    full = with_spec(
        shares=(SharedDirectory("t", "/s"),),
        ninep=(NinePDirectory("n", proxy_fd=50), NinePDirectory("m", proxy_fd=51)),
    )
    both = [[d for d in objects(found, "-device") if d["driver"] == "virtio-9p-pci"] for found in (words, argv(full))]
    assert both[0] == both[1]


def test_microvm_has_no_pci_and_names_disks_in_order() -> None:
    spec = with_spec(machine_type="microvm", disks=(Disk("/d", "data"),), network=UserNetwork(MAC))
    devices = objects(argv(spec), "-device")
    assert not [d for d in devices if "pci" in str(d["driver"]) or "addr" in d]
    assert [d["serial"] for d in devices if d["driver"] == "virtio-blk-device"] == ["kata-image", "data"]
    assert disk_address(spec, "data") == ("mmioblk", "/dev/vdb")


def test_network_forwards() -> None:
    ports = (PublishedPort(8080, 80), PublishedPort(53, 5353, "udp", "0.0.0.0"))
    (netdev,) = objects(argv(with_spec(network=UserNetwork(MAC, ports))), "-netdev")
    assert netdev["hostfwd"] == [{"str": "tcp:127.0.0.1:8080-:80"}, {"str": "udp:0.0.0.0:53-:5353"}]


def test_vsock_takes_the_place_of_the_serial_port() -> None:
    words = argv(port_fds=(), vsock=VsockEndpoint(cid=77, fd=9))
    drivers = [d["driver"] for d in objects(words, "-device")]
    assert "vhost-vsock-pci" in drivers
    assert "virtserialport" not in drivers
    assert not [word for word in words if "id=agent" in word]


def test_streams_beside_the_agents() -> None:
    spec = with_spec(debug_console=True, agent_log=True)
    words = argv(spec)
    chardevs = [word for word in options(words, "-chardev") if word.endswith("server=on,wait=off")]
    assert [word.split(",")[1:3] for word in chardevs] == [
        ["id=debug", "fd=5"],
        ["id=log", "fd=6"],
        ["id=agent", "fd=7"],
    ]
    ports = [d for d in objects(words, "-device") if d["driver"] == "virtserialport"]
    # The agent's port comes last, so that the others have their names by then, and has its number whatever there is.
    assert [(d["nr"], d["chardev"], d["name"]) for d in ports] == [
        (2, "debug", "agent.debug.0"),
        (3, "log", "agent.log.0"),
        (1, "agent", "agent.channel.0"),
    ]
    line = kernel_line(spec).split()
    assert line[-3:] == ["agent.debug_console", "agent.debug_console_vport=1026", "agent.log_vport=1025"]
    assert not [word for word in kernel_line(SPEC).split() if word.startswith("agent.")]


@pytest.mark.parametrize(
    "asked", ["systemd.unified_cgroup_hierarchy=0", "agent.unified_cgroup_hierarchy=false", "quiet"]
)
def test_a_guest_has_cgroup_v2_unless_it_is_asked_for_v1(asked: str) -> None:
    line = kernel_line(with_spec(kernel_params=(asked,))).split()
    assert ("cgroup_no_v1=all" in line) == (asked == "quiet")


def test_kernel_line_has_the_user_last() -> None:
    line = kernel_line(with_spec(kernel_params=("panic=7", "a.b=c"))).split()
    assert line[:4] == ["console=ttyS0", "root=/dev/vda", "rootfstype=erofs", "ro"]
    assert line[-2:] == ["panic=7", "a.b=c"]
    assert "root=/dev/vda" not in kernel_line(with_spec(image=None))


NASTY = '/x,id=evil,readonly=off -monitor stdio"}'


def test_a_path_never_reaches_the_command_line() -> None:
    words = argv(with_spec(image=NASTY, disks=(Disk(NASTY, "d"),), shares=(SharedDirectory("t", NASTY),)))
    assert not [word for word in words if "evil" in word]


def test_a_kernel_path_stays_one_word() -> None:
    words = argv(with_spec(kernel=NASTY, initrd=NASTY))
    assert options(words, "-kernel") == options(words, "-initrd") == [NASTY]


@pytest.mark.parametrize(
    "changes",
    [
        {"sandbox_id": "a,b"},
        {"sandbox_id": "-a"},
        {"sandbox_id": ""},
        {"sandbox_id": "a\n"},
        {"vcpus": 0},
        {"memory_mib": 1},
        {"uid": 1},
        {"directory": "/" + "d" * 100},
        {"kernel": "k"},
        {"kernel": "/k\0"},
        {"kernel_params": ("a\nb",)},
        {"kernel_params": ("",)},
        {"kernel_params": ("x" * 2048,)},
        {"disks": (Disk("/d", "x" * 21),)},
        {"disks": (Disk("/d", "kata-image"),)},
        {"disks": (Disk("/d", "a,b"),)},
        {"disks": (Disk("d", "s"),)},
        {"disks": tuple(Disk("/d", f"s{i}") for i in range(20))},
        {"shares": (SharedDirectory("a b", "/s"),)},
        {"shares": (SharedDirectory("t", "/s"), SharedDirectory("t", "/s"))},
        {"ninep": (NinePDirectory("a b", "/s"),)},
        {"ninep": (NinePDirectory("t", "s"),)},
        {"ninep": (NinePDirectory("t", "/s"),), "shares": (SharedDirectory("t", "/s"),)},
        {"ninep": tuple(NinePDirectory(f"t{i}", "/s") for i in range(5))},
        {"pcie_root_ports": 9},
        {"pcie_root_ports": -1},
        {"disks": (Disk("/d", "s", driver="scsi"),)},
        {"disks": (Disk("/d", "s", driver="floppy"),)},  # type: ignore[arg-type]
        {"machine_type": "microvm", "iommu": True},
        {"machine_type": "microvm", "scsi_controller": True},
        {"machine_type": "microvm", "disks": (Disk("/d", "s", driver="nvdimm"),)},
        {"network": UserNetwork("02:00:00:00:00:01,x=y")},
        {"network": UserNetwork(MAC, (PublishedPort(0, 80),))},
        {"network": UserNetwork(MAC, (PublishedPort(80, 65536),))},
        {"network": UserNetwork(MAC, (PublishedPort(80, 80, host_address="1.2.3.4-:1,x"),))},
        {"network": UserNetwork(MAC, (PublishedPort(80, 80, host_address="::1"),))},
        {"network": UserNetwork(MAC, (PublishedPort(80, 80, protocol="tcp:1"),))},  # type: ignore[arg-type]
    ],
    ids=str,
)
def test_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        argv(with_spec(**changes))


def test_a_tap_is_given_as_descriptors() -> None:
    words = argv(with_spec(nics=(TapNic("02:00:00:00:00:0A", (7,), mtu=1400),)))
    assert objects(words, "-netdev") == [{"type": "tap", "id": "tap0", "fds": "7", "vhost": False}]
    (card,) = [d for d in objects(words, "-device") if d["driver"] == "virtio-net-pci"]
    assert card == {
        "driver": "virtio-net-pci",
        "bus": "pcie.0",
        "addr": "3",
        "disable-legacy": "on",
        "netdev": "tap0",
        "mac": "02:00:00:00:00:0a",
        "host_mtu": 1400,
        "romfile": "",
    }


def test_queues_and_vhost() -> None:
    spec = with_spec(nics=(TapNic(MAC, (7, 8), vhost=True), TapNic(MAC, (9,))))
    words = argv(spec, vhost_fds=((17, 18), ()))
    assert objects(words, "-netdev") == [
        {"type": "tap", "id": "tap0", "fds": "7:8", "vhost": True, "vhostfds": "17:18"},
        {"type": "tap", "id": "tap1", "fds": "9", "vhost": False},
    ]
    first, second = [d for d in objects(words, "-device") if d["driver"] == "virtio-net-pci"]
    assert (first["mq"], first["vectors"], first["addr"], first["multifunction"]) == (True, 6, "3", True)
    assert (second["addr"], second["multifunction"], "mq" in second) == ("3.1", True, False)
    assert nic_fds(spec) == (7, 8, 9)


def test_taps_beside_the_user_network_and_without_pci() -> None:
    nics = (TapNic(MAC, (7, 8)),)
    words = argv(with_spec(network=UserNetwork(MAC), nics=nics))
    cards = [d for d in objects(words, "-device") if d["driver"] == "virtio-net-pci"]
    assert [(d["netdev"], d["addr"]) for d in cards] == [("net", "3"), ("tap0", "3.1")]
    words = argv(with_spec(machine_type="microvm", nics=nics))
    assert {"driver": "virtio-net-device", "netdev": "tap0", "mac": MAC, "mq": True} in objects(words, "-device")


@pytest.mark.parametrize(
    "nics",
    [
        (TapNic("02:00:00:00:00:01,x=y", (7,)),),
        (TapNic(MAC, ()),),
        (TapNic(MAC, (-1,)),),
        (TapNic(MAC, (7,), mtu=67),),
        (TapNic(MAC, (7,), mtu=65536),),
        (TapNic(MAC, (7,)),) * 9,
    ],
)
def test_nics_that_cannot_be(nics: tuple[TapNic, ...]) -> None:
    with pytest.raises(SpecError):
        argv(with_spec(nics=nics))


@pytest.mark.parametrize("missing", [errno.ENOENT, errno.ENODEV, errno.ENXIO])
def test_vhost_that_is_not_there(monkeypatch: pytest.MonkeyPatch, missing: int) -> None:
    """Then QEMU moves the packets; one that is there and refused is somebody's mistake."""

    def refuse(*_arguments: object) -> int:
        raise OSError(missing, os.strerror(missing))

    wanted = (TapNic(MAC, (7, 8), vhost=True), TapNic(MAC, (9,)))
    with ExitStack() as stack, monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        assert files.open_vhost(wanted, stack) == ((), ())
        missing = errno.EACCES
        with pytest.raises(HypervisorError, match="vhost-net cannot be opened: Permission denied"):
            files.open_vhost(wanted, stack)
    monkeypatch.setattr(files, "VHOST_NET", "/dev/null")
    with ExitStack() as stack:
        ((first, second), none) = files.open_vhost(wanted, stack)
        assert first != second and none == ()


def test_devices_of_the_host_are_behind_ports_of_their_own() -> None:
    spec = with_spec(pcie_root_ports=2, host_devices=(HostDevice("0000:5e:00.1"), HostDevice("0000:5e:00.2")))
    found = objects(argv(spec), "-device")
    assert [device["id"] for device in found if device["driver"] == "pcie-root-port"] == [f"port{n}" for n in range(4)]
    assert [device for device in found if device["driver"] == "vfio-pci"] == [
        {"driver": "vfio-pci", "id": "host0", "host": "0000:5e:00.1", "bus": "port2", "addr": "0"},
        {"driver": "vfio-pci", "id": "host1", "host": "0000:5e:00.2", "bus": "port3", "addr": "0"},
    ]
    machine = QemuMachine(spec)
    assert machine.host_device_path("0000:5e:00.2") == "1d.3/00"
    with pytest.raises(HypervisorError, match=r"no device .* of the host"):
        machine.host_device_path("0000:5e:00.3")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"host_devices": (HostDevice("5e:00.1"),)}, "not a PCI address"),
        ({"host_devices": (HostDevice("0000:5e:00.1,x=y"),)}, "not a PCI address"),
        ({"host_devices": (HostDevice("0000:5e:00.1"),), "pcie_root_ports": 8}, "8 root ports at most, not 9"),
        ({"host_devices": (HostDevice("0000:5e:00.1"),), "machine_type": "microvm"}, "microvm cannot have PCI devices"),
    ],
)
def test_devices_of_the_host_that_no_machine_can_have(changes: Any, sentence: str) -> None:
    with pytest.raises(SpecError, match=sentence):
        argv(with_spec(**changes))


def test_a_machine_that_is_to_be_saved_keeps_its_memory_in_a_file_that_others_may_map() -> None:
    words = argv(with_spec(memory_fd=9, network=UserNetwork(MAC)))
    [memory] = [entry for entry in objects(words, "-object") if entry["id"] == "ram"]
    assert (memory["mem-path"], memory["share"]) == ("/proc/self/fd/9", True)
    assert objects(words, "-netdev") == [{"type": "hubport", "id": "net", "hubid": 0}], "slirp would be saved too"
    assert "-incoming" not in words


@pytest.mark.parametrize("exclusive", [False, True])
def test_a_restored_machine_waits_for_its_state_and_shares_no_page_that_it_writes(exclusive: bool) -> None:
    saved = Saved(memory_fd=9, state_fd=10, exclusive=exclusive)
    words = argv(with_spec(saved=saved, shares=(SharedDirectory("kataShared", "/s"),), network=UserNetwork(MAC)))
    assert options(words, "-incoming") == ["defer"]
    [memory] = [entry for entry in objects(words, "-object") if entry["id"] == "ram"]
    assert (memory["mem-path"], memory["share"]) == ("/proc/self/fd/9", exclusive)
    assert not [entry for entry in objects(words, "-device") if "vhost-user-fs" in entry["driver"]], "it comes later"
    assert objects(words, "-netdev")[0]["type"] == "user"
    assert not {"-kernel", "-initrd", "-append"} & set(words), "it would keep files in memory that nobody boots"


def test_spare_disks_are_read_only_and_empty() -> None:
    words = argv(with_spec(spare_disks=2, disks=(Disk("/d", "data"),)))
    nodes = {entry["node-name"]: entry for entry in objects(words, "-blockdev")}
    assert nodes["empty2"]["driver"] == "null-co" and nodes["disk2"]["file"] == "empty2"
    assert nodes["disk2"]["read-only"] is True
    spares = [entry for entry in objects(words, "-device") if entry.get("drive") == "disk2"]
    assert [entry["addr"] for entry in spares] == ["6"]
    assert "disk3" not in nodes, "the spec's own disk has the place of the first"


def test_what_the_operator_says_of_the_machine() -> None:
    hardware = Hardware(
        firmware="/fw", random_source="/dev/hwrng", machine_options="a=b,c=d", cpu_features="-x2apic,pmu=on"
    )
    words = argv(with_spec(hardware=hardware))
    assert options(words, "-bios") == ["/fw"]
    assert options(words, "-cpu") == ["max,la57=off,erms=off,-x2apic,pmu=on"]
    assert options(words, "-machine")[0].endswith(",memory-backend=ram,a=b,c=d")
    assert {"qom-type": "rng-random", "id": "rng", "filename": "/dev/hwrng"} in objects(words, "-object")
    assert options(argv(with_spec(hardware=Hardware(cpu_features=""))), "-cpu") == ["max,la57=off,erms=off"]
    assert options(argv(), "-bios") == []


@pytest.mark.parametrize(
    "bad",
    [
        {"machine_options": "a=/etc/shadow"},
        {"machine_options": "a=b c"},
        {"machine_options": "a=b,,c=d"},
        {"machine_options": 'a="b"'},
        {"machine_options": "kernel=vmlinuz"},
        {"machine_options": "a=b,DumpDTB=x"},
        {"machine_options": "memory_backend=other"},
        {"machine_options": "pflash0=x"},
        {"machine_options": "boot.splash=x"},
        {"machine_options": "a=b,--device"},
        {"cpu_features": "a=b,c=d\n"},
        {"cpu_features": ","},
        {"firmware": "-relative"},
        {"random_source": "dev/random"},
        {"program": "qemu"},
    ],
)
def test_no_property_becomes_something_else(bad: dict[str, str]) -> None:
    with pytest.raises(SpecError):
        argv(with_spec(hardware=Hardware(**bad)))


def test_how_disks_are_served() -> None:
    disks = (Disk("/d/a", "a", readonly=False), Disk("/d/b", "b", driver="scsi"))
    wanted = DiskOptions(
        aio="native",
        direct=True,
        no_flush=False,
        logical_sector=4096,
        physical_sector=8192,
        queues=2,
        queue_size=64,
        thread=True,
    )
    words = argv(with_spec(disks=disks, disk_options=wanted, scsi_controller=True))
    for node in objects(words, "-blockdev"):
        assert node["cache"] == node["file"]["cache"] == {"direct": True, "no-flush": False}
        assert node["file"]["aio"] == "native" and "aio" not in node
    image, controller, blk, scsi = (
        next(entry for entry in objects(words, "-device") if match.items() <= entry.items())
        for match in ({"drive": "disk0"}, {"id": "scsi"}, {"drive": "disk1"}, {"drive": "disk2"})
    )
    sectors = {"logical_block_size": 4096, "physical_block_size": 8192}
    served = {"num-queues": 2, "queue-size": 64, "iothread": "disks"}
    assert served.items() <= image.items() and not sectors.keys() & image.keys()
    assert (served | sectors).items() <= blk.items()
    assert sectors.items() <= scsi.items() and not served.keys() & scsi.keys()
    assert {"num_queues": 2, "virtqueue_size": 64, "iothread": "disks"}.items() <= controller.items()
    assert {"qom-type": "iothread", "id": "disks"} in objects(words, "-object")
    plain = [*objects(argv(), "-blockdev"), *objects(argv(), "-device"), *objects(argv(), "-object")]
    assert not any({"cache", "aio", "iothread", "num-queues", "queue-size"} & entry.keys() for entry in plain)

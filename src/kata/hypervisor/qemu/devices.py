"""The devices of a machine: which there are, where each sits, and what QEMU calls them. Pure, no I/O.

On q35 every device has a fixed slot of the root bus, counted within its kind, so that a disk's PCI path does
not depend on what else the machine has. What comes later sits behind a root port; all ports are functions of one
slot. microvm has no PCI: its devices are virtio-mmio, which QEMU announces
on the kernel command line, so its guest kernel needs CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES (ours has it, Debian's
does not; and with ACPI instead, Debian's stops under TCG while it looks for a timer).
"""

from __future__ import annotations

import msgspec

from kata.hypervisor.machine import Disk, DiskAddress, MachineSpec, NinePDirectory

MAX_PORTS = 4
"""Ports of the virtio-serial controller; number 0 is kept for a console (drivers/char/virtio_console.c)."""
IMAGE_SERIAL = "kata-image"
DISK_THREAD = "disks"

SERIAL_SLOT, RNG_SLOT, NET_SLOT, VSOCK_SLOT = 0x01, 0x02, 0x03, 0x1C
FIRST_DISK_SLOT, MAX_DISKS = 0x04, 20
FIRST_SHARE_SLOT, MAX_SHARES = 0x18, 4
ROOT_PORT_SLOT, MAX_ROOT_PORTS = 0x1D, 8
SCSI_SLOT, MAX_SCSI_TARGETS = 0x1E, 256
SPARE_SIZE = 1 << 40
PMEM_ALIGNMENT = 2 << 20
"""Linux maps persistent memory in sub-sections of 2 MiB (Documentation/admin-guide/mm/memory-hotplug.rst)."""

Device = dict[str, object]


class Port(msgspec.Struct, frozen=True):
    """A stream between the host and the guest's agent.

    `name` is that of its virtio-serial port and `number` its place there, `vsock` its port where the guest has
    vsock. `stream` is the name of its character device, and of its socket in the VM's directory.
    """

    stream: str
    name: str
    number: int
    vsock: int


AGENT = Port("agent", "agent.channel.0", 1, 1024)
DEBUG = Port("debug", "agent.debug.0", 2, 1026)
LOG = Port("log", "agent.log.0", 3, 1025)


class VsockEndpoint(msgspec.Struct, frozen=True):
    """A guest CID and the descriptor of /dev/vhost-vsock that holds it."""

    cid: int
    fd: int


def all_disks(spec: MachineSpec) -> tuple[Disk, ...]:
    """The disks as the guest sees them: the guest image, when there is one, before `spec.disks`; no spare ones."""
    image = () if spec.image is None else (Disk(path=spec.image, serial=IMAGE_SERIAL),)
    return (*image, *spec.disks)


def spare_disks(spec: MachineSpec) -> range:
    """The numbers of the disks that are empty yet."""
    first = len(all_disks(spec))
    return range(first, first + max(0, spec.spare_disks - len(spec.disks)))


def pmems(spec: MachineSpec) -> tuple[Disk, ...]:
    """The disks that are persistent memory; the guest's kernel numbers them in this order."""
    return tuple(disk for disk in all_disks(spec) if disk.driver == "nvdimm")


def disk_address(spec: MachineSpec, serial: str) -> DiskAddress:
    """Where a disk of the spec is in the guest. KeyError when there is none with this `serial`."""
    for index, disk in enumerate(all_disks(spec)):
        if disk.serial == serial:
            return _address(spec, index, disk)
    raise KeyError(serial)


def _address(spec: MachineSpec, index: int, disk: Disk) -> DiskAddress:
    if disk.driver == "nvdimm":
        return DiskAddress("nvdimm", f"/dev/pmem{pmems(spec).index(disk)}")
    if disk.driver == "scsi":
        return scsi_address(index)
    if spec.machine_type == "microvm":
        return DiskAddress("mmioblk", f"/dev/vd{chr(ord('a') + index)}")
    return DiskAddress("blk", pci_path(index))


def pci_path(index: int) -> str:
    """The PCI path of a virtio-blk disk of the machine, as the agent reads it."""
    return f"{FIRST_DISK_SLOT + index:02x}"


def scsi_address(target: int) -> DiskAddress:
    """A SCSI disk, each a target of its own; LUN 0."""
    return DiskAddress("scsi", f"{target}:0")


def root_port_path(port: int) -> str:
    """The PCI path of the device behind a root port, as the agent reads it."""
    return f"{ROOT_PORT_SLOT:02x}.{port}/00"


def ports(spec: MachineSpec) -> tuple[Port, ...]:
    """The streams of the machine. The agent's comes last: when the guest sees its name, it has seen the others'."""
    return (*((DEBUG,) if spec.debug_console else ()), *((LOG,) if spec.agent_log else ()), AGENT)


def serial_ports(spec: MachineSpec) -> list[Device]:
    """A virtio-serial controller and its ports, each of which the guest finds by its name."""
    controller = virtio(spec, "virtio-serial", SERIAL_SLOT, id="serial", max_ports=MAX_PORTS)
    return [controller, *(_serial_port(port) for port in ports(spec))]


def _serial_port(port: Port) -> Device:
    place = {"driver": "virtserialport", "bus": "serial.0", "nr": port.number}
    return {**place, "chardev": port.stream, "name": port.name}


def vsock(spec: MachineSpec, endpoint: VsockEndpoint) -> Device:
    """A vhost-vsock device with a CID that the host has reserved already."""
    return virtio(spec, "vhost-vsock", VSOCK_SLOT, **{"guest-cid": endpoint.cid, "vhostfd": str(endpoint.fd)})


def random_source(spec: MachineSpec) -> Device:
    """virtio-rng fed by the object `rng`."""
    several = {"multifunction": True} if spec.balloon and spec.machine_type != "microvm" else {}
    return virtio(spec, "virtio-rng", RNG_SLOT, rng="rng", **several)


def random_back_end(spec: MachineSpec) -> Device:
    """The object `rng`: a device of the host that the operator names, or what QEMU asks its kernel for."""
    if spec.hardware.random_source:
        return {"qom-type": "rng-random", "id": "rng", "filename": spec.hardware.random_source}
    return {"qom-type": "rng-builtin", "id": "rng"}


def balloon(spec: MachineSpec) -> Device:
    """A balloon. It tells of pages that the guest has freed, and lets go before the guest kills for memory."""
    made = virtio(spec, "virtio-balloon", RNG_SLOT, **{"free-page-reporting": True, "deflate-on-oom": True})
    return made if spec.machine_type == "microvm" else {**made, "addr": f"{RNG_SLOT:x}.1"}


def memory(spec: MachineSpec, name: str, size: int) -> Device:
    """A piece of the guest's memory. A vhost-user daemon maps it, so for one it must be a file that can be given."""
    kind = "memory-backend-memfd" if spec.shares or spec.hugepages else "memory-backend-ram"
    made: Device = {"qom-type": kind, "id": name, "size": size}
    if spec.shares:
        made["share"] = True
    if spec.hugepages:
        made["hugetlb"] = True
    return {**made, "prealloc": True} if spec.preallocate else made


def boot_memory(spec: MachineSpec) -> Device:
    """The memory that is there from the start. In a file, it is opened by its descriptor's name.

    A machine that is to be saved writes to the file; a restored one has pages of its own where it writes.
    """
    size = spec.memory_mib << 20
    if spec.memory_fd < 0 and spec.saved is None:
        return memory(spec, "ram", size)
    fd, share = (spec.memory_fd, True) if spec.saved is None else (spec.saved.memory_fd, spec.saved.exclusive)
    return {
        "qom-type": "memory-backend-file",
        "id": "ram",
        "size": size,
        "mem-path": f"/proc/self/fd/{fd}",
        "share": share,
    }


def dimm(number: int, back_end: str) -> Device:
    """A memory module that comes while the guest runs."""
    return {"driver": "pc-dimm", "id": f"dimm{number}", "memdev": back_end}


def memory_slots(spec: MachineSpec) -> int:
    """Slots for memory that comes later."""
    grows = spec.machine_type == "q35" and spec.max_memory_mib > spec.memory_mib
    return spec.memory_slots if grows else 0


def max_vcpus(spec: MachineSpec) -> int:
    """CPUs that there can be at most."""
    return max(spec.vcpus, spec.max_vcpus) if spec.machine_type == "q35" else spec.vcpus


def root_port(port: int) -> Device:
    """An empty PCI Express port, `port0` and so on, into which one device can be plugged while the guest runs."""
    place = {"bus": "pcie.0", "addr": f"{ROOT_PORT_SLOT:x}.{port}", "multifunction": True}
    return {"driver": "pcie-root-port", "id": root_port_name(port), **place, "chassis": port + 1, "slot": port}


def root_ports(spec: MachineSpec) -> int:
    """How many there are: those for devices that come later, and after them those of host devices."""
    return spec.pcie_root_ports + len(spec.host_devices) if spec.machine_type == "q35" else 0


def host_device(spec: MachineSpec, index: int) -> Device:
    """A PCI device of the host, by VFIO."""
    place = {"bus": root_port_name(spec.pcie_root_ports + index), "addr": "0"}
    return {"driver": "vfio-pci", "id": f"host{index}", "host": spec.host_devices[index].address, **place}


def root_port_name(port: int) -> str:
    """QEMU's id of a root port, and of the bus behind it."""
    return f"port{port}"


def scsi_controller(spec: MachineSpec) -> Device:
    """The SCSI host on which SCSI disks are."""
    options = spec.disk_options
    return virtio(
        spec,
        "virtio-scsi",
        SCSI_SLOT,
        id="scsi",
        **({"num_queues": options.queues} if options.queues else {}),
        **({"virtqueue_size": options.queue_size} if options.queue_size else {}),
        **({"iothread": DISK_THREAD} if options.thread else {}),
    )


def disk_thread() -> Device:
    """The thread that serves disks."""
    return {"qom-type": "iothread", "id": DISK_THREAD}


def iommu() -> Device:
    """An Intel IOMMU; it has to come before every device that is to be behind it."""
    return {"driver": "intel-iommu", "intremap": "on", "caching-mode": True}


def pmem_back_end(number: int, disk: Disk, fd: int, size: int) -> Device:
    """A file as memory. QEMU has no descriptor form for it, so it opens its own descriptor again by /proc."""
    file = {"mem-path": f"/proc/self/fd/{fd}", "size": size, "share": True, "readonly": disk.readonly}
    return {"qom-type": "memory-backend-file", "id": f"pmem{number}", **file}


def pmem_device(number: int, disk: Disk) -> Device:
    """The NVDIMM in front of it; one that is unarmed cannot be written to."""
    return {"driver": "nvdimm", "id": f"nvdimm{number}", "memdev": f"pmem{number}", "unarmed": disk.readonly}


def node_name(index: int) -> str:
    """QEMU's name of the block node of a disk of the spec."""
    return f"disk{index}"


def disk_node(spec: MachineSpec, node: str, disk: Disk, fdset: int, driver: str = "file") -> Device:
    """The block node of a disk: a raw file that QEMU gets as a descriptor, never by its path.

    `driver` is "file", or "host_device" for a block device of the host.

    The descriptor of a read-only disk is opened O_RDONLY, so the host's kernel refuses writes too.
    """
    options = spec.disk_options
    aio: Device = {"aio": options.aio} if options.aio != "threads" else {}
    caching = {"direct": options.direct, "no-flush": options.no_flush}
    cache = {name: value for name, value in caching.items() if value is not None}
    both: Device = {"read-only": disk.readonly, "discard": "ignore" if disk.readonly else "unmap"}
    if cache:
        both["cache"] = cache
    file = {"driver": driver, "filename": f"/dev/fdset/{fdset}", **both, **aio}
    return {"driver": "raw", "node-name": node, **both, "file": file}


def empty_node(node: str) -> Device:
    """What is behind a spare disk before and after it is used: zeros, and more of them than any image has bytes.

    The guest learns a disk's size once; what is put into a spare one says by itself where it ends.
    """
    return {"driver": "null-co", "node-name": node, "size": SPARE_SIZE, "read-zeroes": True, "read-only": True}


def spare_node(node: str, file: str) -> Device:
    """The node of a spare disk, in front of the node `file`."""
    return {"driver": "raw", "node-name": node, "read-only": True, "file": file}


def file_node(node: str, fdset: int, driver: str) -> Device:
    """A file or block device, as `disk_node` has it inside, read-only and by itself."""
    return {"driver": driver, "node-name": node, "filename": f"/dev/fdset/{fdset}", "read-only": True}


def empty_name(index: int) -> str:
    """QEMU's name of the empty node of a spare disk."""
    return f"empty{index}"


def spare_disk(spec: MachineSpec, index: int) -> Device:
    """The device in front of a spare node."""
    return disk_device(spec, index, Disk(path="", serial=f"spare{index}"))


def disk_device(spec: MachineSpec, index: int, disk: Disk) -> Device:
    """The disk in front of the node of the same `index`."""
    if disk.driver == "scsi":
        return scsi_disk(spec, index, node_name(index), disk)
    properties = {"drive": node_name(index), "serial": disk.serial, **_disk_properties(spec, disk)}
    return virtio(spec, "virtio-blk", FIRST_DISK_SLOT + index, **properties)


def scsi_disk(spec: MachineSpec, target: int, node: str, disk: Disk) -> Device:
    """A SCSI disk at an id of the controller."""
    place = {"bus": "scsi.0", "channel": 0, "scsi-id": target, "lun": 0}
    return {"driver": "scsi-hd", **place, "drive": node, "serial": disk.serial, **_sectors(spec, disk)}


def plugged_disk(spec: MachineSpec, node: str, disk: Disk) -> Device:
    """A virtio-blk disk that comes while the guest runs; its place is the caller's to add."""
    made = {"driver": "virtio-blk-pci", "disable-legacy": "on", "drive": node, "serial": disk.serial}
    return {**made, **_disk_properties(spec, disk)}


def _disk_properties(spec: MachineSpec, disk: Disk) -> Device:
    """What the operator wants of a virtio-blk disk; a SCSI one has its queues and thread from its controller."""
    options, made = spec.disk_options, _sectors(spec, disk)
    if options.queues:
        made["num-queues"] = options.queues
    if options.queue_size:
        made["queue-size"] = options.queue_size
    if options.thread:
        made["iothread"] = DISK_THREAD
    return made


def _sectors(spec: MachineSpec, disk: Disk) -> Device:
    options = spec.disk_options
    sizes = {"logical_block_size": options.logical_sector, "physical_block_size": options.physical_sector}
    return {} if disk.serial == IMAGE_SERIAL else {name: size for name, size in sizes.items() if size}


def share(spec: MachineSpec, index: int, tag: str) -> Device:
    """A virtio-fs device whose daemon is at the chardev `fs<index>`."""
    name = "vhost-user-fs"
    slot = FIRST_SHARE_SLOT + index
    if spec.machine_type == "microvm":
        return {"driver": f"{name}-device", "chardev": f"fs{index}", "tag": tag}
    return {"driver": f"{name}-pci", "bus": "pcie.0", "addr": f"{slot:x}", "chardev": f"fs{index}", "tag": tag}


def plugged_share(index: int, tag: str) -> Device:
    """A virtio-fs device that comes later; its place is the caller's to add."""
    return {"driver": "vhost-user-fs-pci", "chardev": f"fs{index}", "tag": tag}


def fd_socket(name: str) -> Device:
    """A character device on a socket that QEMU was given under this name, connected already."""
    address = {"type": "fd", "data": {"str": name}}
    return {"type": "socket", "data": {"addr": address, "server": False}}


def ninep_export(index: int, share: NinePDirectory, fd: int) -> str:
    """The option for a directory that QEMU holds open: it goes by the descriptor's name, never by a path of ours.

    Files keep the owners that they have; QEMU's user can neither change nor make up others, a helper can. QEMU asks its
    helper for the root as soon as the device is made, so where there is none it makes an empty directory up.
    """
    if share.empty:
        return f"synth,id=ninep{index},readonly=on"
    if share.proxy_fd >= 0:
        return f"proxy,id=ninep{index},sock_fd={fd}"
    readonly = "on" if share.readonly else "off"
    return f"local,id=ninep{index},path=/proc/self/fd/{fd},security_model=none,readonly={readonly},multidevs=remap"


def ninep(spec: MachineSpec, index: int, tag: str) -> Device:
    """The virtio-9p device of an export, from the last slot on: a restored machine has its virtio-fs elsewhere."""
    slot = FIRST_SHARE_SLOT + MAX_SHARES - 1 - index
    return virtio(spec, "virtio-9p", slot, fsdev=f"ninep{index}", mount_tag=tag)


def virtio(spec: MachineSpec, name: str, slot: int, **properties: object) -> Device:
    """A virtio device in a slot of the root bus; a microvm has no slots."""
    if spec.machine_type == "microvm":
        return {"driver": f"{name}-device", **properties}
    # VIRTIO 1 only: the legacy interface is code that no guest of ours needs.
    place = {"bus": "pcie.0", "addr": f"{slot:x}", "disable-legacy": "on"}
    return {"driver": f"{name}-pci", **place, **properties}

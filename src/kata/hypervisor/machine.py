"""What every hypervisor driver offers, and the values that describe a machine. The door of this room.

`MachineSpec` is pure data: a driver turns it into its own command line or API calls. Nothing here knows
QEMU. A machine is one VM from `boot` to `close`; it owns its process, sockets and console, and closing it
leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

import msgspec

Accelerator = Literal["auto", "kvm", "tcg"]
MachineType = Literal["q35", "microvm"]
ImageType = Literal["erofs", "ext4", "xfs"]
Stream = Literal["debug", "log"]
"""What a guest has for its host beside the agent's API: a shell, and the agent's log."""
Transport = Literal["auto", "vsock", "serial"]
"""How the agent is reached; `serial` is a virtio-serial port, which needs nothing of the host."""


DiskDriver = Literal["blk", "scsi", "nvdimm"]
"""What a disk is to the guest: virtio-blk, a disk of the virtio SCSI controller, persistent memory."""


class Disk(msgspec.Struct, frozen=True):
    """A raw image, or a block device of the host.

    The guest sees disks in the order of `MachineSpec.disks`, the guest image first.

    `serial` (20 bytes at most, VIRTIO 1.2 section 5.2.4) is how the guest tells disks apart, and how its machine
    names it; persistent memory has none that the guest can see. Its size is a multiple of 2 MiB.
    """

    path: str
    serial: str
    readonly: bool = True
    driver: DiskDriver = "blk"
    bounded: bool = False
    """Whether what is on it says where it ends, as EROFS does: then the guest may take the disk to be larger."""
    identity: str = ""
    """What must be found at `path` (`kata.linux.fds.identity`), or it is not opened; empty for whatever is there."""


class DiskAddress(NamedTuple):
    """Where a disk is in the guest, in the agent's form: a driver of its devices and storages, and the source.

    `("blk", "04")` and `("blk", "1d.0/00")` are PCI paths, `("scsi", "20:0")` a SCSI id and LUN, and
    `("mmioblk", "/dev/vdb")` and `("nvdimm", "/dev/pmem0")` nodes.
    """

    driver: str
    source: str


class DiskOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a VMM treats its disks; what is not set is the VMM's own way.

    `direct` goes around the host's page cache, `no_flush` ignores what the guest wants on disk. Sizes of sectors are
    in bytes, and are not the guest image's. `thread`: disks are served by a thread of their own.
    """

    aio: Literal["threads", "native", "io_uring"] = "threads"
    direct: bool | None = None
    no_flush: bool | None = None
    logical_sector: int = 0
    physical_sector: int = 0
    queues: int = 0
    queue_size: int = 0
    thread: bool = False


class Hardware(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator says about the VMM beyond the machine's parts; empty is the driver's own choice.

    `program` and `firmware` are paths of the host, `random_source` that of a character device. The other two are lists
    of properties, separated by commas, as QEMU has them.
    """

    program: str = ""
    firmware: str = ""
    random_source: str = ""
    machine_options: str = ""
    cpu_features: str = "pmu=off"


class PublishedPort(msgspec.Struct, frozen=True):
    """A port of the host, on one of its addresses, that leads to a port of the guest."""

    host_port: int
    guest_port: int
    protocol: Literal["tcp", "udp"] = "tcp"
    host_address: str = "127.0.0.1"


class UserNetwork(msgspec.Struct, frozen=True):
    """A NIC whose back end is the VMM's own user-mode network stack: no privileges, no host interface."""

    mac: str
    ports: tuple[PublishedPort, ...] = ()


class TapNic(msgspec.Struct, frozen=True):
    """A NIC whose back end is a tap that the caller has opened: `fds`, one a queue, with virtio-net headers.

    The VMM gets copies of the descriptors. `mtu` is what the device tells the guest's driver, in bytes; 0 is
    nothing. `vhost` moves packets in the host's kernel; without vhost-net there the VMM does it.
    """

    mac: str
    fds: tuple[int, ...]
    mtu: int = 0
    vhost: bool = False


class HostDevice(msgspec.Struct, frozen=True):
    """A PCI device of the host that is bound to vfio-pci, by its address there (`DDDD:BB:SS.F`)."""

    address: str


class SharedDirectory(msgspec.Struct, frozen=True):
    """A virtio-fs export: the guest mounts `tag`; a vhost-user daemon listens at `socket_path`."""

    tag: str
    socket_path: str


class NinePDirectory(msgspec.Struct, frozen=True):
    """A 9p export: the guest mounts `tag`.

    The VMM serves `path` by itself, with the rights of its own user; or it has a helper at the other end of the socket
    `proxy_fd`, with the rights of that. The VMM gets a copy of the descriptor. With neither there is nothing behind the
    device: it keeps the place of one that a machine that goes on from this one has.
    """

    tag: str
    path: str = ""
    readonly: bool = True
    proxy_fd: int = -1

    @property
    def empty(self) -> bool:
        """Whether there is nothing behind it."""
        return not self.path and self.proxy_fd < 0


class Saved(msgspec.Struct, frozen=True):
    """A machine that was saved with `Machine.save`, as open files; the VMM gets copies of the descriptors.

    `memory_fd` is the guest's memory, which a restored machine changes for itself alone, unless `exclusive` says that
    nobody else has the file. `state_fd`, at its begin, is the state of the devices: an open file for each machine.
    """

    memory_fd: int
    state_fd: int
    exclusive: bool = False
    complete: Callable[[], None] | None = None
    """Returns once all of the memory is in the file, where that is not so from the start. Raises OSError."""


class MachineSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a driver needs to boot one VM.

    `image` is the guest's root filesystem (first disk, of `image_type`), or None when `initrd` holds all of it.
    `memory_mib` is in MiB. `debug_console` gives the host a shell of the guest, `agent_log` the agent's log as JSON
    lines: each has a way of its own beside the agent's, see `Machine.stream_address`. `directory` is the VM's own
    folder (0700, owned by the caller): sockets, console log and pid file go there. `uid` and `gid` are what the
    VMM's process runs as; None keeps the caller's.
    """

    sandbox_id: str
    directory: str
    kernel: str
    initrd: str | None
    image: str | None
    image_type: ImageType = "erofs"
    kernel_params: tuple[str, ...] = ()
    vcpus: int = 1
    memory_mib: int = 256
    machine_type: MachineType = "q35"
    accelerator: Accelerator = "auto"
    transport: Transport = "auto"
    debug_console: bool = False
    agent_log: bool = False
    disks: tuple[Disk, ...] = ()
    network: UserNetwork | None = None
    nics: tuple[TapNic, ...] = ()
    host_devices: tuple[HostDevice, ...] = ()
    """Each behind a root port of its own, besides `pcie_root_ports`; q35 alone takes them. Their memory is locked."""
    shares: tuple[SharedDirectory, ...] = ()
    ninep: tuple[NinePDirectory, ...] = ()
    pcie_root_ports: int = 4
    """Empty ports for devices that come later, one device each; q35 alone has them."""
    scsi_controller: bool = False
    """Whether there is a virtio SCSI controller; without one no SCSI disk can be added."""
    iommu: bool = False
    """Whether the guest has an IOMMU, which it needs to give devices to containers by VFIO."""
    max_memory_mib: int = 0
    """How far memory can grow, in MiB, boot memory included; not above `memory_mib` is not at all. q35 alone grows."""
    memory_slots: int = 0
    """How often memory can be added."""
    max_vcpus: int = 0
    """How many CPUs there can be; not above `vcpus` is none more."""
    balloon: bool = False
    """A balloon, by which memory that the guest does not use goes back to the host, and a guest is made smaller."""
    preallocate: bool = False
    """Whether all memory is taken from the host at once."""
    hugepages: bool = False
    """Whether memory is made of the host's reserved huge pages (hugetlbfs), of their usual size."""
    spare_disks: int = 0
    """How many read-only virtio-blk disks there are at least: those behind `disks` are empty until one is asked for."""
    memory_fd: int = -1
    """A file of `memory_mib` in which the guest's memory is to be, so that the machine can be saved; -1 for none."""
    saved: Saved | None = None
    """What the machine goes on from, instead of booting: one that was saved and that had the same devices."""
    disk_options: DiskOptions = DiskOptions()
    hardware: Hardware = Hardware()
    uid: int | None = None
    gid: int | None = None
    netns: str = ""
    """The network namespace that the VMM runs in, by its path; empty for the caller's."""


class Machine(Protocol):
    """One VM. Methods may be called from any thread; each is idempotent where that makes sense."""

    @property
    def spec(self) -> MachineSpec:
        """What the machine was made from."""

    @property
    def pid(self) -> int:
        """Process id of the VMM, 0 before boot."""

    @property
    def accelerator(self) -> str:
        """What runs the guest's CPUs: `kvm` or `tcg`."""

    def boot(self) -> None:
        """Start the VMM and let the guest run. Returns when the VMM answers, not when the guest does.

        Raises HypervisorError with the VMM's own words when it cannot be started.
        """

    def save(self, state_fd: int) -> None:
        """Hold the guest and write the state of its devices to a file: with the memory's file it can be restored.

        The machine is of no more use then, and is to be closed. Raises HypervisorError.
        """

    def agent_address(self) -> str:
        """Where the agent is reached, in the form of `kata.protocol.transport` (`unix://…`, `vsock://…`)."""

    def stream_address(self, stream: Stream) -> str:
        """Where the debug console or the agent's log is reached, in the form of `agent_address`.

        Raises HypervisorError when the spec did not ask for it.
        """

    def disk_address(self, serial: str) -> DiskAddress:
        """How the agent finds the disk with this `serial`. Raises HypervisorError when there is no such disk."""

    def host_device_path(self, address: str) -> str:
        """The PCI path in the guest of one of the spec's host devices. Raises HypervisorError without it."""

    def add_disk(self, disk: Disk) -> DiskAddress:
        """Give the running guest another disk. Returns when the VMM has it; the guest sees it a moment later.

        Raises SpecError for a disk that cannot be, NoPlaceError when the machine is full, HypervisorError when the
        VMM refuses. After an error nothing of the disk is left.
        """

    def remove_disk(self, serial: str) -> None:
        """Take away a disk that was added, which the guest must have let go of. Returns when it is gone.

        Raises HypervisorError; when the guest does not let go in time the disk stays, and may be removed later.
        """

    def resize_disk(self, serial: str, size: int) -> None:
        """Tell the guest that an added disk has `size` bytes now; a file that is smaller grows to it.

        Never smaller than it is: the caller sees to that. Raises HypervisorError.
        """

    def nic_path(self, number: int) -> str:
        """The PCI path in the guest of one of `MachineSpec.nics`; q35 alone has it."""

    def add_nic(self, nic: TapNic) -> str:
        """Give the running guest another NIC; its PCI path, as the agent reads it. The guest sees it a moment later.

        Raises SpecError, NoPlaceError when the machine is full, HypervisorError when the VMM refuses or has a NIC with
        this MAC address already. After an error nothing of the NIC is left.
        """

    def remove_nic(self, mac: str) -> None:
        """Take away the NIC with this MAC address and its hold on the tap. Returns when it is gone.

        One of `MachineSpec.nics` stays in its place without a link. Raises HypervisorError; when the guest does not
        let go in time the NIC stays, and may be removed later.
        """

    def vcpu_threads(self) -> tuple[int, ...]:
        """The host's threads that run the guest's CPUs, one each. Raises HypervisorError."""

    def free_memory_slots(self) -> int:
        """How often memory can be added yet."""

    def add_memory(self, size_mib: int) -> None:
        """Give the running guest more memory, which its agent has to bring online: MiB, in whole blocks of the guest.

        Raises NoPlaceError when no slot is left, HypervisorError when the VMM refuses; nothing of it is left then.
        """

    def add_vcpus(self, count: int) -> None:
        """Give the running guest more CPUs, which its agent has to bring online.

        Raises NoPlaceError beyond `max_vcpus`, HypervisorError when the VMM refuses.
        """

    def remove_vcpus(self, count: int) -> int:
        """Take away CPUs that were added; how many. Raises HypervisorError when the guest does not let go in time."""

    def set_balloon(self, memory_mib: int) -> None:
        """Leave the guest `memory_mib` MiB in all. Returns at once: the guest gives what it can, when it can."""

    def wait(self, timeout: float | None = None) -> int | None:
        """Exit status of the VMM when it has ended within `timeout` seconds, else None."""

    def follow_console(self, told: Callable[[str], None]) -> None:
        """From now on tell of each line that the guest writes to its console, on a thread that reads it."""

    def console_tail(self, lines: int = 40) -> str:
        """The last lines that the guest wrote to its console, with control characters removed."""

    def stop(self, timeout: float = 5.0) -> None:
        """End the VM: ask the VMM to quit, kill it when it has not by `timeout` seconds. Never raises."""

    def close(self) -> None:
        """`stop`, then remove the files and sockets of this machine."""

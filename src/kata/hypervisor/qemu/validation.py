"""Is this MachineSpec one that QEMU may be given? Pure checks, before anything is opened or started.

Values that reach QEMU inside JSON cannot break out of it; the checks here are for what goes into the few
options that have no JSON form (`-name`, `-append`, file names) and for what QEMU or the guest would refuse late.
"""

from __future__ import annotations

import re
import socket

from kata.hypervisor.errors import SpecError
from kata.hypervisor.machine import Disk, Hardware, MachineSpec, PublishedPort, TapNic
from kata.hypervisor.qemu.devices import MAX_DISKS, MAX_ROOT_PORTS, MAX_SHARES, all_disks
from kata.hypervisor.qemu.nics import MAX_NICS, all_nics

PROPERTIES = re.compile(r"[+-]?[A-Za-z0-9][\w.+-]*(=[\w.:+-]*)?(,[+-]?[A-Za-z0-9][\w.+-]*(=[\w.:+-]*)?)*", re.ASCII)
"""A list for -machine or -cpu. No value can hold a path, a space or a comma."""
OWN_OPTIONS = frozenset(
    {"accel", "append", "dtb", "dumpdtb", "firmware", "initrd", "kernel", "type"}
    | {"confidential-guest-support", "memory-backend", "memory-encryption"}
    | {"dump-guest-core", "graphics", "sata", "smbus", "smm", "usb", "vmport", "x-option-roms"}
)
"""Properties of -machine that are said elsewhere, that name files and objects, or that give a guest more of a PC to
attack, or its memory to a core dump; `pflash` and `a.b` are others."""
SANDBOX_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
SERIAL = re.compile(r"[A-Za-z0-9_.-]{1,20}")  # 20 bytes: VIRTIO 1.2 section 5.2.4
TAG = re.compile(r"[A-Za-z0-9_.-]{1,36}")  # 36 bytes: VIRTIO 1.2 section 5.11.4
MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
PCI_ADDRESS = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")
KERNEL_LINE_MAX = 2047  # COMMAND_LINE_SIZE of x86 less the final zero (arch/x86/include/asm/setup.h)
SOCKET_PATH_MAX = 107  # sun_path less the final zero, unix(7)
MIN_MEMORY_MIB = 64
MAX_VCPUS = 240
MIN_MTU, MAX_MTU = 68, 65535  # host_mtu of QEMU's virtio-net (hw/net/virtio-net.c)


def check_spec(spec: MachineSpec) -> None:
    """Raise SpecError, naming the value, when `spec` cannot become a machine."""
    _require(SANDBOX_ID.fullmatch(spec.sandbox_id), f"{spec.sandbox_id!r} is not a valid sandbox id")
    _require(1 <= spec.vcpus <= MAX_VCPUS, f"{spec.vcpus} is not a possible number of vCPUs")
    _require(spec.memory_mib >= MIN_MEMORY_MIB, f"{spec.memory_mib} MiB of memory are too little to boot")
    _require((spec.uid is None) == (spec.gid is None), "uid and gid of the VMM go together")
    _require(len(spec.directory) + len("/agent.sock") <= SOCKET_PATH_MAX, f"{spec.directory} is too long a path")
    _check_kernel_params(spec.kernel_params)
    _check_hardware(spec.hardware)
    _check_disks(spec)
    _check_buses(spec)
    _check_shares(spec)
    _check_nics(spec)
    if spec.network is not None:
        _require(MAC.fullmatch(spec.network.mac.lower()), f"{spec.network.mac!r} is not a MAC address")
        for port in spec.network.ports:
            _check_port(port)


def _require(condition: object, what: str) -> None:
    if not condition:
        raise SpecError(what, hint="correct the configuration of the sandbox")


def _check_path(path: str, role: str) -> None:
    _require(path.startswith("/") and "\0" not in path, f"{path!r} is not an absolute path ({role})")


def _check_kernel_params(params: tuple[str, ...]) -> None:
    for param in params:
        _require(param.isprintable() and param, f"{param!r} is not a kernel parameter")


def _check_hardware(hardware: Hardware) -> None:
    paths = {"VMM": hardware.program, "firmware": hardware.firmware, "source of random numbers": hardware.random_source}
    for role, path in paths.items():
        if path:
            _check_path(path, role)
    for words in filter(None, (hardware.machine_options, hardware.cpu_features)):
        _require(PROPERTIES.fullmatch(words), f"{words!r} is no list of properties")
    for word in hardware.machine_options.split(","):
        name = word.partition("=")[0].lower().replace("_", "-")  # QEMU takes one for the other
        own = name in OWN_OPTIONS or name.startswith("pflash") or "." in name
        _require(not own, f"{name!r} of a machine cannot be set this way")


def check_kernel_line(line: str) -> str:
    """Return `line`; SpecError when the kernel would cut it off without a word."""
    length = len(line.encode())
    _require(length <= KERNEL_LINE_MAX, f"the kernel command line has {length} bytes, more than {KERNEL_LINE_MAX}")
    return line


def _check_disks(spec: MachineSpec) -> None:
    _check_path(spec.kernel, "kernel")
    if spec.initrd is not None:
        _check_path(spec.initrd, "initrd")
    disks: tuple[Disk, ...] = all_disks(spec)
    _require(len(disks) <= MAX_DISKS, f"{len(disks)} disks are more than the {MAX_DISKS} that a machine takes")
    _require(len({disk.serial for disk in disks}) == len(disks), "two disks have the same serial")
    for disk in disks:
        check_disk(disk)
        _require(disk.driver != "scsi" or spec.scsi_controller, f"the SCSI disk {disk.serial} needs a SCSI controller")


def check_disk(disk: Disk) -> None:
    """Raise SpecError, naming the value, when no machine could have this disk."""
    _check_path(disk.path, "disk")
    _require(SERIAL.fullmatch(disk.serial), f"{disk.serial!r} is not a disk serial")
    _require(disk.driver in ("blk", "scsi", "nvdimm"), f"{disk.driver!r} is not a driver for disks")


def _check_buses(spec: MachineSpec) -> None:
    ports = spec.pcie_root_ports + len(spec.host_devices)
    _require(
        spec.pcie_root_ports >= 0 and ports <= MAX_ROOT_PORTS,
        f"a machine has {MAX_ROOT_PORTS} root ports at most, not {ports}",
    )
    for device in spec.host_devices:
        _require(PCI_ADDRESS.fullmatch(device.address), f"{device.address!r} is not a PCI address (DDDD:BB:SS.F)")
    if spec.machine_type == "microvm":
        pmem = any(disk.driver == "nvdimm" for disk in spec.disks)
        for wanted, what in (
            (spec.scsi_controller, "SCSI"),
            (spec.iommu, "an IOMMU"),
            (pmem, "persistent memory"),
            (spec.host_devices, "PCI devices of the host"),
        ):
            _require(not wanted, f"the machine type microvm cannot have {what}")


def _check_shares(spec: MachineSpec) -> None:
    tags = [*(share.tag for share in spec.shares), *(directory.tag for directory in spec.ninep)]
    _require(len(tags) <= MAX_SHARES, f"a machine takes {MAX_SHARES} shared directories at most")
    _require(len(set(tags)) == len(tags), "two shares have the same tag")
    for tag in tags:
        _require(TAG.fullmatch(tag), f"{tag!r} is not a mount tag")
    for share in spec.shares:
        _check_path(share.socket_path, "socket of a share")
    for directory in (export for export in spec.ninep if export.path):
        _check_path(directory.path, "shared directory")


def _check_nics(spec: MachineSpec) -> None:
    _require(all_nics(spec) <= MAX_NICS, f"{all_nics(spec)} NICs are more than the {MAX_NICS} that a machine takes")
    for nic in spec.nics:
        check_nic(nic)


def check_nic(nic: TapNic) -> None:
    """Raise SpecError, naming the value, when no machine could have this NIC."""
    _require(MAC.fullmatch(nic.mac.lower()), f"{nic.mac!r} is not a MAC address")
    _require(nic.fds and min(nic.fds) >= 0, "a NIC has no tap")
    _require(nic.mtu == 0 or MIN_MTU <= nic.mtu <= MAX_MTU, f"{nic.mtu} is not a possible MTU")


def _check_port(port: PublishedPort) -> None:
    for number in (port.host_port, port.guest_port):
        _require(1 <= number <= 65535, f"{number} is not a port")
    _require(port.protocol in ("tcp", "udp"), f"{port.protocol!r} is not a protocol for a published port")
    try:
        packed = socket.inet_pton(socket.AF_INET, port.host_address)
    except OSError:
        packed = b""
    # QEMU's user network publishes on IPv4 addresses only (hostfwd, qemu-options.hx of 7.2).
    _require(packed, f"{port.host_address!r} is not an IPv4 address to publish a port on")

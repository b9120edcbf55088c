"""QEMU's argv from a MachineSpec: a pure function, so that a table of tests can say what every option is.

Options with structure are given as JSON (-device, -blockdev, -object, -netdev), in which no value can become
an option. The others (-chardev, -machine, -add-fd) hold nothing but our own words and numbers; -name and
-append hold values that `validation` has checked. Nothing here opens, starts or looks at anything.
"""

from __future__ import annotations

import json

import msgspec

from kata.hypervisor.machine import Disk, MachineSpec
from kata.hypervisor.qemu import devices, nics
from kata.hypervisor.qemu.validation import check_kernel_line, check_spec

SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
"""QEMU's seccomp filters: all of them (qemu-options.hx, -sandbox)."""

CPU = {"kvm": "host", "tcg": "max,la57=off,erms=off"}
"""TCG: `max` gives the guest AES, RDRAND and the like; five-level page tables only make every walk longer.
Without `erms` the kernel and libc copy eight bytes at a time instead of by REP MOVSB, which TCG does byte by byte.
"""

ACCELERATOR = {"kvm": "kvm", "tcg": "tcg,thread=single,tb-size=256"}
"""One thread for all CPUs of a guest: with one for each, guests of two CPUs died at boot now and then while their
kernel patched its own code (seen with QEMU 7.2), and those that lived booted in 13 s instead of 11. tb-size (MiB) is
the most that translated code takes, which would else grow to an eighth of the host's memory."""

MAX_MEMORY_MIB = {"kvm": 1 << 40, "tcg": 512 << 10}
"""TCG's CPUs address 2**40 bytes (phys-bits), which the room for memory that comes later must fit into."""

MACHINE = {
    # Everything of a PC that the guest does not need is code that a hostile guest could reach.
    "q35": "q35,sata=off,smbus=off,usb=off,vmport=off,graphics=off,smm=off,dump-guest-core=off",
    # The PIC and PIT stay: without ACPI they are the guest's only way to calibrate a timer under TCG.
    "microvm": "microvm,acpi=off,rtc=on,x-option-roms=off,auto-kernel-cmdline=on,dump-guest-core=off",
}

CGROUP_V1 = ("systemd.unified_cgroup_hierarchy=0", "agent.unified_cgroup_hierarchy=false")
"""Kernel parameters that ask for cgroup v1 in the guest. `cgroup_no_v1` cannot be taken back by a later one."""


class Resolved(msgspec.Struct, frozen=True, kw_only=True):
    """What the spec leaves open, decided and opened by the caller: descriptor numbers as QEMU will see them.

    `disk_fds` follows `devices.all_disks`, `share_fds` follows `spec.shares`, `ninep_fds` those of `spec.ninep` that
    are not empty, `vhost_fds` `spec.nics` (empty for one without vhost, or for all). Without `vsock`, `port_fds` are
    listening unix sockets that follow `devices.ports`.
    """

    binary: str
    accelerator: str
    qmp_fd: int
    console_fd: int
    port_fds: tuple[int, ...] = ()
    vsock: devices.VsockEndpoint | None = None
    disk_fds: tuple[int, ...] = ()
    disk_drivers: tuple[str, ...] = ()
    """QEMU's driver of each file, as `files.disk_driver` says; none for regular files alone."""
    share_fds: tuple[int, ...] = ()
    ninep_fds: tuple[int, ...] = ()
    pmem_sizes: tuple[int, ...] = ()
    """Bytes of each disk of `devices.pmems`."""
    vhost_fds: tuple[tuple[int, ...], ...] = ()

    def fds(self) -> tuple[int, ...]:
        """Every descriptor that QEMU has to inherit."""
        vsock = () if self.vsock is None else (self.vsock.fd,)
        return (
            self.qmp_fd,
            self.console_fd,
            *self.port_fds,
            *vsock,
            *self.disk_fds,
            *self.share_fds,
            *self.ninep_fds,
            *(fd for fds in self.vhost_fds for fd in fds),
        )


def command_line(spec: MachineSpec, resolved: Resolved) -> list[str]:
    """QEMU's argv for `spec`. Raises SpecError when a value of it is not acceptable."""
    check_spec(spec)
    return [
        resolved.binary,
        *("-name", f"sandbox-{spec.sandbox_id},debug-threads=on"),
        *("-nodefaults", "-no-user-config", "-nographic", "-no-reboot"),
        *("-sandbox", SANDBOX),
        *_board(spec, resolved),
        *_boot(spec),
        *_buses(spec),
        *_character_devices(spec, resolved),
        *_ports(spec, resolved),
        *("-object", _json(devices.random_back_end(spec))),
        *_device(devices.random_source(spec)),
        *(_device(devices.balloon(spec)) if spec.balloon else ()),
        *_network(spec),
        *_taps(spec, resolved),
        *(word for index in range(len(spec.host_devices)) for word in _device(devices.host_device(spec, index))),
        *_disks(spec, resolved),
        *_spares(spec),
        *(_shares(spec) if spec.saved is None else ()),
        *_ninep(spec, resolved.ninep_fds),
        *(("-incoming", "defer") if spec.saved is not None else ()),
    ]


def kernel_line(spec: MachineSpec) -> str:
    """The kernel command line: ours first, then `spec.kernel_params`, so that the configuration has the last word.

    `no_timer_check`: the check counts ticks against a busy loop, and a loaded host under TCG fails it. KASLR
    stays on and the TSC is left to the kernel's own judgement: both are the guest's protection.
    """
    root = () if spec.image is None else ("root=/dev/vda", f"rootfstype={spec.image_type}", "ro")
    # Only what the agent asks for is looked at: a scan of all ids takes a second and finds disks in no order.
    scsi = ("scsi_mod.scan=none",) if spec.scsi_controller else ()
    # The guest's own drivers go around the IOMMU (pt): it is there for the devices that containers drive.
    iommu = ("intel_iommu=on", "iommu=pt") if spec.iommu else ()
    ours = (
        "console=ttyS0",
        *root,
        "quiet",
        "panic=1",
        "reboot=t",  # a triple fault is the one way to reset that q35 and microvm share; -no-reboot makes it an exit
        "no_timer_check",
        *(
            ()
            if set(spec.kernel_params) & set(CGROUP_V1)
            else ("systemd.unified_cgroup_hierarchy=1", "cgroup_no_v1=all")
        ),
        *scsi,
        *iommu,
        *(("agent.debug_console", f"agent.debug_console_vport={devices.DEBUG.vsock}") if spec.debug_console else ()),
        *((f"agent.log_vport={devices.LOG.vsock}",) if spec.agent_log else ()),
    )
    return check_kernel_line(" ".join((*ours, *spec.kernel_params)))


def _board(spec: MachineSpec, resolved: Resolved) -> list[str]:
    accelerator = resolved.accelerator
    # An IOMMU that remaps interrupts needs the I/O APIC in QEMU, where TCG has it anyway.
    split = ",kernel-irqchip=split" if spec.iommu and accelerator == "kvm" else ""
    pmem = bool(resolved.pmem_sizes)
    hardware = spec.hardware
    more_options = f",{hardware.machine_options}" if hardware.machine_options else ""
    features = f",{hardware.cpu_features}" if hardware.cpu_features else ""
    most = devices.max_vcpus(spec)
    more = f",maxcpus={most}" if most > spec.vcpus else ""
    return [
        *("-machine", f"{MACHINE[spec.machine_type]},memory-backend=ram{',nvdimm=on' if pmem else ''}{more_options}"),
        *("-accel", f"{ACCELERATOR[accelerator]}{split}"),
        *("-cpu", f"{CPU[accelerator]}{features}"),
        *("-smp", f"cpus={spec.vcpus}{more},sockets=1,cores={most},threads=1"),
        *("-m", f"size={spec.memory_mib}M{_slots(spec, resolved)}"),
        *("-object", _json(devices.boot_memory(spec))),
    ]


def _slots(spec: MachineSpec, resolved: Resolved) -> str:
    """Room beside boot memory: for persistent memory, which is there at boot, and for memory that comes later."""
    later = devices.memory_slots(spec)
    top = min(spec.max_memory_mib, MAX_MEMORY_MIB[resolved.accelerator]) if later else spec.memory_mib
    room = sum(resolved.pmem_sizes) + (max(0, top - spec.memory_mib) << 20)
    slots = len(resolved.pmem_sizes) + later
    return f",slots={slots},maxmem={(spec.memory_mib << 20) + room}" if room else ""


def _boot(spec: MachineSpec) -> list[str]:
    """What a machine boots from; one that goes on from a saved one never does, and would hold the kernel in memory."""
    firmware = ["-bios", spec.hardware.firmware] if spec.hardware.firmware else []
    if spec.saved is not None:
        return firmware
    initrd = [] if spec.initrd is None else ["-initrd", spec.initrd]
    return [*firmware, "-kernel", spec.kernel, *initrd, "-append", kernel_line(spec)]


def _buses(spec: MachineSpec) -> list[str]:
    """What other devices hang on, so before all of them."""
    words = ["-object", _json(devices.disk_thread())] if spec.disk_options.thread else []
    parts = [devices.iommu()] if spec.iommu else []
    parts += [devices.root_port(port) for port in range(devices.root_ports(spec))]
    if spec.scsi_controller:
        parts.append(devices.scsi_controller(spec))
    return [*words, *(word for part in parts for word in _device(part))]


def _character_devices(spec: MachineSpec, resolved: Resolved) -> list[str]:
    return [
        *("-chardev", f"socket,id=qmp,fd={resolved.qmp_fd}"),
        *("-mon", "chardev=qmp,mode=control"),
        *("-chardev", f"socket,id=console,fd={resolved.console_fd}"),
        *("-serial", "chardev:console"),
        *(word for index, fd in enumerate(resolved.share_fds) for word in ("-chardev", f"socket,id=fs{index},fd={fd}")),
    ]


def _ports(spec: MachineSpec, resolved: Resolved) -> list[str]:
    if resolved.vsock is not None:
        return _device(devices.vsock(spec, resolved.vsock))
    words: list[str] = []
    for port, fd in zip(devices.ports(spec), resolved.port_fds, strict=True):
        words += ["-chardev", f"socket,id={port.stream},fd={fd},server=on,wait=off"]
    return [*words, *(word for part in devices.serial_ports(spec) for word in _device(part))]


def _network(spec: MachineSpec) -> list[str]:
    if spec.network is None:
        return []
    savable = spec.memory_fd >= 0
    back_end = nics.no_network(spec.network) if savable else nics.network_back_end(spec.network)
    return ["-netdev", _json(back_end), *_device(nics.network_card(spec, spec.network))]


def _taps(spec: MachineSpec, resolved: Resolved) -> list[str]:
    words: list[str] = []
    for index, nic in enumerate(spec.nics):
        vhost = resolved.vhost_fds[index] if resolved.vhost_fds else ()
        words += ["-netdev", _json(nics.tap_back_end(index, nic, vhost))]
        words += _device(nics.tap_card(spec, index, nic))
    return words


def _disks(spec: MachineSpec, resolved: Resolved) -> list[str]:
    numbered = list(enumerate(zip(devices.all_disks(spec), resolved.disk_fds, strict=True)))
    blocks = [(index, disk, fd) for index, (disk, fd) in numbered if disk.driver != "nvdimm"]
    words: list[str] = []
    for index, disk, fd in blocks:
        words += ["-add-fd", f"fd={fd},set={index}"]
        driver = resolved.disk_drivers[index] if resolved.disk_drivers else "file"
        node = devices.disk_node(spec, devices.node_name(index), disk, fdset=index, driver=driver)
        words += ["-blockdev", _json(node)]
    # Linux names disks in the order in which they are found: by slot on PCI, by command line on virtio-mmio. Both
    # are the order of these options (seen in guests of both machines).
    for index, disk, _ in blocks:
        words += _device(devices.disk_device(spec, index, disk))
    return [*words, *_pmems([(disk, fd) for _, (disk, fd) in numbered if disk.driver == "nvdimm"], resolved.pmem_sizes)]


def _spares(spec: MachineSpec) -> list[str]:
    words: list[str] = []
    for index in devices.spare_disks(spec):
        empty = devices.empty_name(index)
        words += ["-blockdev", _json(devices.empty_node(empty))]
        words += ["-blockdev", _json(devices.spare_node(devices.node_name(index), empty))]
        words += _device(devices.spare_disk(spec, index))
    return words


def _pmems(files: list[tuple[Disk, int]], sizes: tuple[int, ...]) -> list[str]:
    words: list[str] = []
    for number, ((disk, fd), size) in enumerate(zip(files, sizes, strict=True)):
        words += ["-object", _json(devices.pmem_back_end(number, disk, fd, size))]
        words += _device(devices.pmem_device(number, disk))
    return words


def _shares(spec: MachineSpec) -> list[str]:
    parts = (devices.share(spec, index, share.tag) for index, share in enumerate(spec.shares))
    return [word for part in parts for word in _device(part)]


def _ninep(spec: MachineSpec, fds: tuple[int, ...]) -> list[str]:
    words, given = list[str](), iter(fds)
    for index, share in enumerate(spec.ninep):
        words += ["-fsdev", devices.ninep_export(index, share, -1 if share.empty else next(given))]
        words += _device(devices.ninep(spec, index, share.tag))
    return words


def _device(device: devices.Device) -> list[str]:
    return ["-device", _json(device)]


def _json(value: devices.Device) -> str:
    return json.dumps(value, separators=(",", ":"))

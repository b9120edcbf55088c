"""QEMU's argv from a MachineSpec: a pure function, so that a table of tests can say what every option is.

Options with structure are given as JSON (-device, -blockdev, -object, -netdev), in which no value can become
an option. The others (-chardev, -machine, -add-fd) hold nothing but our own words and numbers; -name and
-append hold values that `validation` has checked. Nothing here opens, starts or looks at anything.
"""

from __future__ import annotations

import json

import msgspec

from kata.hypervisor.machine import MachineSpec
from kata.hypervisor.qemu import devices
from kata.hypervisor.qemu.validation import check_kernel_line, check_spec

SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
"""QEMU's seccomp filters: all of them (qemu-options.hx, -sandbox)."""

CPU = {"kvm": "host,pmu=off", "tcg": "max,la57=off"}
"""TCG: `max` gives the guest AES, RDRAND and the like; five-level page tables only make every walk longer."""

ACCELERATOR = {"kvm": "kvm", "tcg": "tcg,thread=multi,tb-size=256"}
"""tb-size (MiB) bounds the cache of translated code, which would else grow to an eighth of the host's memory."""

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

    `disk_fds` follows `devices.all_disks`, `share_fds` follows `spec.shares`. Without `vsock`, `port_fds` are
    listening unix sockets that follow `devices.ports`.
    """

    binary: str
    accelerator: str
    qmp_fd: int
    console_fd: int
    port_fds: tuple[int, ...] = ()
    vsock: devices.VsockEndpoint | None = None
    disk_fds: tuple[int, ...] = ()
    share_fds: tuple[int, ...] = ()

    def fds(self) -> tuple[int, ...]:
        """Every descriptor that QEMU has to inherit."""
        vsock = () if self.vsock is None else (self.vsock.fd,)
        return (self.qmp_fd, self.console_fd, *self.port_fds, *vsock, *self.disk_fds, *self.share_fds)


def command_line(spec: MachineSpec, resolved: Resolved) -> list[str]:
    """QEMU's argv for `spec`. Raises SpecError when a value of it is not acceptable."""
    check_spec(spec)
    return [
        resolved.binary,
        *("-name", f"sandbox-{spec.sandbox_id},debug-threads=on"),
        *("-nodefaults", "-no-user-config", "-nographic", "-no-reboot"),
        *("-sandbox", SANDBOX),
        *_board(spec, resolved.accelerator),
        *_boot(spec),
        *_character_devices(spec, resolved),
        *_ports(spec, resolved),
        *("-object", _json({"qom-type": "rng-builtin", "id": "rng"})),
        *_device(devices.random_source(spec)),
        *_network(spec),
        *_disks(spec, resolved.disk_fds),
        *_shares(spec),
    ]


def kernel_line(spec: MachineSpec) -> str:
    """The kernel command line: ours first, then `spec.kernel_params`, so that the configuration has the last word.

    `no_timer_check`: the check counts ticks against a busy loop, and a loaded host under TCG fails it. KASLR
    stays on and the TSC is left to the kernel's own judgement: both are the guest's protection.
    """
    root = () if spec.image is None else ("root=/dev/vda", "rootfstype=erofs", "ro")
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
        *(("agent.debug_console", f"agent.debug_console_vport={devices.DEBUG.vsock}") if spec.debug_console else ()),
        *((f"agent.log_vport={devices.LOG.vsock}",) if spec.agent_log else ()),
    )
    return check_kernel_line(" ".join((*ours, *spec.kernel_params)))


def _board(spec: MachineSpec, accelerator: str) -> list[str]:
    size = spec.memory_mib << 20
    # A vhost-user daemon maps the guest's memory, so that memory must be a file that can be handed to it.
    memory = (
        {"qom-type": "memory-backend-memfd", "id": "ram", "size": size, "share": True}
        if spec.shares
        else {"qom-type": "memory-backend-ram", "id": "ram", "size": size}
    )
    return [
        *("-machine", f"{MACHINE[spec.machine_type]},memory-backend=ram"),
        *("-accel", ACCELERATOR[accelerator]),
        *("-cpu", CPU[accelerator]),
        *("-smp", f"cpus={spec.vcpus},sockets=1,cores={spec.vcpus},threads=1"),
        *("-m", f"size={spec.memory_mib}M"),
        *("-object", _json(memory)),
    ]


def _boot(spec: MachineSpec) -> list[str]:
    initrd = [] if spec.initrd is None else ["-initrd", spec.initrd]
    return ["-kernel", spec.kernel, *initrd, "-append", kernel_line(spec)]


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
    back_end = _json(devices.network_back_end(spec.network))
    return ["-netdev", back_end, *_device(devices.network_card(spec, spec.network))]


def _disks(spec: MachineSpec, fds: tuple[int, ...]) -> list[str]:
    disks = devices.all_disks(spec)
    words: list[str] = []
    for index, (disk, fd) in enumerate(zip(disks, fds, strict=True)):
        words += ["-add-fd", f"fd={fd},set={index}"]
        words += ["-blockdev", _json(devices.disk_node(index, disk, fdset=index))]
    # Linux names disks in the order in which they are found: by slot on PCI, by command line on virtio-mmio. Both
    # are the order of these options (seen in guests of both machines).
    for index, disk in enumerate(disks):
        words += _device(devices.disk_device(spec, index, disk))
    return words


def _shares(spec: MachineSpec) -> list[str]:
    parts = (devices.share(spec, index, share.tag) for index, share in enumerate(spec.shares))
    return [word for part in parts for word in _device(part)]


def _device(device: devices.Device) -> list[str]:
    return ["-device", _json(device)]


def _json(value: devices.Device) -> str:
    return json.dumps(value, separators=(",", ":"))

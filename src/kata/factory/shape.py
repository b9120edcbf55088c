"""Which machine a template is of, and whether a sandbox's machine can go on from one. Pure.

A restored machine has to have the devices of the saved one, at the same places; what is behind them may differ
(docs/templates.md). So both come from one description: `prewired` gives a sandbox's machine the devices that templates
have, and `template_of` takes what is a sandbox's own out of it.
"""

from __future__ import annotations

from msgspec.structs import replace

from kata.hypervisor.machine import MachineSpec, NinePDirectory, TapNic, UserNetwork

SPARE_DISKS = 4
"""Read-only disks: images of root file systems. More of them are plugged in."""
ROOT_PORTS = 4
"""Places for whatever comes later, a share by virtio-fs among it: QEMU saves no machine that has its device. Each port
is a tenth of a second of boot under TCG, but only of the template's."""
SANDBOX_ID = "template"
MAC = "02:00:00:00:00:01"


def obstacle(spec: MachineSpec) -> str:
    """Why this machine cannot go on from a template; empty when it can."""
    found = (
        (spec.machine_type != "q35", f"machines of the type {spec.machine_type} are not saved"),
        (spec.image is None, "its guest has no image of its own"),
        (spec.preallocate, "its memory is to be taken from the host at once"),
        (spec.hugepages, "its memory is to be of huge pages"),
        (spec.iommu, "it has an IOMMU"),
        (bool(spec.host_devices), "it has PCI devices of the host"),
        (len(spec.disks) > SPARE_DISKS, "it has too many disks"),
        (any(not disk.readonly or disk.driver != "blk" for disk in spec.disks), "it has disks of its own kind"),
        (any(len(nic.fds) > 1 for nic in spec.nics), "it has a NIC with several queues"),
    )
    return next((why for is_so, why in found if is_so), "")


def prewired(spec: MachineSpec) -> MachineSpec:
    """The machine with the devices that templates have. What a NIC is, its guest is told by the agent alone."""
    return replace(
        spec,
        spare_disks=SPARE_DISKS,
        pcie_root_ports=max(spec.pcie_root_ports, ROOT_PORTS),
        scsi_controller=True,
        transport="serial",
        nics=tuple(replace(nic, mtu=0) for nic in spec.nics),
    )


def template_of(spec: MachineSpec) -> MachineSpec:
    """The machine that a template of a prewired one is: nothing of the sandbox is in it. Its taps are yet to be had."""
    return replace(
        spec,
        sandbox_id=SANDBOX_ID,
        directory="/",
        disks=(),
        network=None if spec.network is None else UserNetwork(MAC),
        nics=tuple(TapNic(MAC, (0,)) for _ in spec.nics),
        shares=(),
        ninep=tuple(NinePDirectory(export.tag) for export in spec.ninep),
        netns="",
        uid=None,
        gid=None,
    )

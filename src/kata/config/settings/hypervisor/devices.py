"""Buses, passed-through devices, the console."""

from kata.config.kinds import Choice, Flag, Integer, Path
from kata.config.setting import Setting
from kata.config.settings.hypervisor.table import HypervisorTable

NO_VHOST_USER = "storage over vhost-user is not supported"
NO_PASSTHROUGH = "host devices are not passed through by VFIO"
PORTS = ("no-port", "root-port", "switch-port", "bridge-port")


class Devices(HypervisorTable):
    """Where devices are plugged in."""

    default_bridges = Setting(
        Integer(),
        1,
        "PCI bridges for devices added later.",
        quiet=(0,),
        ignored="they are added to root ports, `pcie_root_port`",
    )
    hot_plug_vfio = Setting(
        Choice(*PORTS),
        "no-port",
        "Where a host device is plugged in while the VM runs.",
        annotation=True,
        ignored=NO_PASSTHROUGH,
    )
    cold_plug_vfio = Setting(
        Choice(*PORTS),
        "no-port",
        "Where a host device is plugged in before the VM starts.",
        annotation=True,
        ignored=NO_PASSTHROUGH,
    )
    hotplug_vfio_on_root_bus = Setting(
        Flag(),
        False,
        "The older form of `hot_plug_vfio`.",
        annotation=True,
        ignored="`hot_plug_vfio` says where devices are plugged in",
    )
    pcie_root_port = Setting(
        Integer(),
        0,
        "Root ports: places for devices that are added later. 2 at least for disks; more than 8 are 8.",
        annotation=True,
    )
    pcie_switch_port = Setting(
        Integer(),
        0,
        "Switch ports to have, 16 at most.",
        annotation=True,
        refused="devices are attached to root ports",
    )
    enable_iommu = Setting(Flag(), False, "Give the guest an IOMMU.", annotation=True, refused="guests have no IOMMU")
    enable_iommu_platform = Setting(
        Flag(), False, "Make virtio devices use the IOMMU.", annotation=True, refused="guests have no IOMMU"
    )
    enable_vhost_user_store = Setting(
        Flag(), False, "Disks served by vhost-user programs.", annotation=True, refused=NO_VHOST_USER
    )
    vhost_user_store_path = Setting(
        Path(),
        "/var/run/kata-containers/vhost-user",
        "The folder of their sockets and devices.",
        annotation=True,
        allowed_by="valid_vhost_user_store_paths",
        ignored=NO_VHOST_USER,
    )
    vhost_user_reconnect_timeout_sec = Setting(
        Integer(), 0, "Seconds between tries to reach them.", annotation=True, ignored=NO_VHOST_USER
    )
    use_legacy_serial = Setting(
        Flag(),
        False,
        "The guest's console is a serial port instead of a virtio one.",
        annotation=True,
        quiet=(True,),
        ignored="it always is",
    )

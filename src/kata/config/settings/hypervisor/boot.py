"""What the VM boots from, and the program that runs it."""

from kata import paths
from kata.config.kinds import Choice, Path, Records, Text, Words
from kata.config.setting import Setting
from kata.config.settings.hypervisor.table import HypervisorTable
from kata.config.values import GuestExtension, merge_kernel_params

PARAMS = r'[^"]*("[^"]*"[^"]*)*'
"""Quotations that end: an open one would swallow the words that come after it."""
VERITY = r"([a-z_]+=[0-9A-Za-z-]+(,[a-z_]+=[0-9A-Za-z-]+)*)?"
OPTIONS = r"[\w.,=+:-]*"
"""A list of QEMU properties: nothing in it can begin another option."""


def default_kernel() -> str:
    """The guest kernel of `kata setup`."""
    return str(paths.assets_dir() / "vmlinuz")


def default_image() -> str:
    """The guest image of `kata setup`."""
    return str(paths.assets_dir() / "kata-containers.img")


class Boot(HypervisorTable):
    """Program, kernel, image, kernel command line, kind of machine."""

    path = Setting(
        Path(),
        "/usr/bin/qemu-system-x86_64",
        "The VMM's program; it must be there.",
        annotation=True,
        allowed_by="valid_hypervisor_paths",
    )
    kernel = Setting(Path(), default_kernel, "The guest's kernel; the default is our own.", annotation=True, asset=True)
    image = Setting(
        Path(),
        default_image,
        "The disk with the guest's root file system; the default is our own. Excludes `initrd`.",
        annotation=True,
        asset=True,
    )
    initrd = Setting(
        Path(),
        "",
        "An initrd that is the guest's whole root file system. Excludes `image`.",
        annotation=True,
        asset=True,
    )
    firmware = Setting(Path(), "", "The machine's firmware; empty for the VMM's own.", annotation=True, asset=True)
    firmware_volume = Setting(
        Path(),
        "",
        "A volume with the variables of the firmware.",
        annotation=True,
        asset=True,
        refused="firmware with a volume of its own is not supported",
    )
    rootfs_type = Setting(Choice("ext4", "xfs", "erofs"), "erofs", "The file system in `image`: ext4, xfs or erofs.")
    kernel_params = Setting(
        Text(PARAMS, "close the double quotes"),
        "",
        "Words added last to the guest kernel's command line. A pod's words replace those of the same name.",
        annotation=True,
        combine=merge_kernel_params,
    )
    kernel_verity_params = Setting(
        Text(VERITY, "root_hash=…,salt=…,data_blocks=…,data_block_size=…,hash_block_size=…"),
        "",
        "dm-verity parameters of the root disk.",
        annotation=True,
        refused="the guest's kernel cannot check the root disk by dm-verity",
    )
    guest_extension_images = Setting(
        Records(GuestExtension),
        (),
        "More read-only disks for the guest, each with a name.",
        ignored="our guest has no use for extension images",
    )
    machine_type = Setting(
        Choice("q35", "microvm", "pc", "virt", "pseries", "s390-ccw-virtio"),
        "q35",
        "The kind of machine: q35, or microvm with a kernel of `kata kernel build`.",
        annotation=True,
        refused_values={
            "pc": "QEMU's pc has no PCI Express",
            "virt": "it is of another architecture",
            "pseries": "it is of another architecture",
            "s390-ccw-virtio": "it is of another architecture",
        },
    )
    machine_accelerators = Setting(
        Text(OPTIONS, "properties of QEMU's -machine, separated by commas"),
        "",
        "Properties added to the machine; none that names a file.",
        annotation=True,
    )
    cpu_features = Setting(
        Text(OPTIONS, "CPU features such as pmu=off, separated by commas"),
        "pmu=off",
        "Features added to the CPU model.",
        annotation=True,
    )
    pflashes = Setting(
        Words(Path()), (), "Files of flash memory.", refused="machines with flash memory are not supported"
    )
    entropy_source = Setting(
        Path(),
        "/dev/urandom",
        "Where the VMM takes the guest's random numbers from.",
        annotation=True,
        allowed_by="valid_entropy_sources",
    )

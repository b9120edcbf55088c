"""Disks."""

from kata.config.kinds import Choice, Flag, Integer
from kata.config.setting import Setting
from kata.config.settings.hypervisor.table import HypervisorTable

NO_DISK_LIMITS = "there are no limits for disks"
VIRTIO_BLK = "disks are virtio-blk: the guest sees them all the same"


class Block(HypervisorTable):
    """How disks are attached, cached and limited."""

    disable_block_device_use = Setting(
        Flag(), False, "Never give a block device to the guest as a root file system.", annotation=True
    )
    block_device_driver = Setting(
        Choice(
            *("virtio-blk", "virtio-scsi", "virtio-mmio", "nvdimm", "virtio-blk-ccw"),
            synonyms={"virtio-blk-pci": "virtio-blk", "virtio-blk-mmio": "virtio-mmio", "virtio-pmem": "nvdimm"},
        ),
        "virtio-blk",
        "How disks are attached while the VM runs: virtio-blk, or virtio-scsi. virtio-mmio is taken as virtio-blk.",
        annotation=True,
        refused_values={
            "nvdimm": "persistent memory maps a file that the guest could write (CVE-2026-24834)",
            "virtio-blk-ccw": "it is of another architecture",
        },
    )
    vm_rootfs_driver = Setting(
        Choice(
            "virtio-blk",
            "virtio-mmio",
            "nvdimm",
            synonyms={"virtio-blk-pci": "virtio-blk", "virtio-blk-mmio": "virtio-mmio", "virtio-pmem": "nvdimm"},
        ),
        "virtio-blk",
        "How the root disk is attached.",
        quiet=("virtio-mmio", "nvdimm"),
        ignored=VIRTIO_BLK,
    )
    disable_image_nvdimm = Setting(
        Flag(),
        True,
        "Attach the root disk as a disk instead of as memory.",
        annotation=True,
        quiet=(False,),
        ignored=VIRTIO_BLK,
    )
    block_device_aio = Setting(
        Choice("threads", "native", "io_uring"),
        "threads",
        "How the VMM reads and writes disks: threads, io_uring, or native, which needs `block_device_cache_direct`.",
        annotation=True,
    )
    block_device_cache_set = Setting(
        Flag(), False, "Apply the next two; otherwise the VMM's own ways hold.", annotation=True
    )
    block_device_cache_direct = Setting(Flag(), False, "Go around the host's page cache.", annotation=True)
    block_device_cache_noflush = Setting(Flag(), False, "Ignore the guest's flushes.", annotation=True)
    block_device_logical_sector_size = Setting(
        Integer(0, 65536),
        0,
        "Bytes of a disk's logical sector; 0 for the VMM's own, else a power of two from 512 to 65536.",
        annotation="hypervisor.blk_logical_sector_size",
    )
    block_device_physical_sector_size = Setting(
        Integer(0, 65536),
        0,
        "Bytes of a disk's physical sector, likewise; not less than the logical one.",
        annotation="hypervisor.blk_physical_sector_size",
    )
    num_queues = Setting(
        Integer(1, 1024),
        1,
        "Queues of a disk, or of the SCSI controller.",
        annotation="hypervisor.block_device_num_queues",
    )
    queue_size = Setting(
        Integer(1, 1024),
        128,
        "Entries of such a queue: a power of two, 4 or more.",
        annotation="hypervisor.block_device_queue_size",
    )
    enable_iothreads = Setting(Flag(), False, "Serve disks in a thread of their own.", annotation=True)
    indep_iothreads = Setting(
        Integer(0, 50),
        0,
        "How many threads stand ready for disks added later.",
        annotation=True,
        ignored="disks added later share one thread",
    )
    disk_rate_limiter_bw_max_rate = Setting(Integer(0, 2**63 - 1), 0, "Bits a second.", ignored=NO_DISK_LIMITS)
    disk_rate_limiter_bw_one_time_burst = Setting(
        Integer(0, 2**63 - 1), 0, "Bits beyond that, once.", ignored=NO_DISK_LIMITS
    )
    disk_rate_limiter_ops_max_rate = Setting(Integer(0, 2**63 - 1), 0, "Requests a second.", ignored=NO_DISK_LIMITS)
    disk_rate_limiter_ops_one_time_burst = Setting(
        Integer(0, 2**63 - 1), 0, "Requests beyond that, once.", ignored=NO_DISK_LIMITS
    )

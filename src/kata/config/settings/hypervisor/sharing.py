"""How the guest sees files of the host."""

from kata.config.kinds import Choice, Integer, Path, Words
from kata.config.setting import Setting
from kata.config.settings.hypervisor.table import HypervisorTable

FIXED = "how virtiofsd is started is fixed: sandboxed, and without options from outside (CVE-2026-47243)"


class Sharing(HypervisorTable):
    """virtio-fs, 9p, or nothing shared."""

    shared_fs = Setting(
        Choice("virtio-fs", "virtio-9p", "none", "virtio-fs-nydus", "inline-virtio-fs"),
        "virtio-fs",
        "How files of the host get into the guest: virtio-fs, virtio-9p or none. All but virtio-fs let guests share"
        " their template's memory, if reclaim_guest_freed_memory is off.",
        annotation=True,
        refused_values={
            "virtio-fs-nydus": "nydus images are not supported",
            "inline-virtio-fs": "only dragonball has it",
        },
    )
    virtio_fs_daemon = Setting(
        Path(),
        "",
        "The virtiofsd program; empty for the one that this host has.",
        annotation=True,
        allowed_by="valid_virtio_fs_daemon_paths",
    )
    virtio_fs_cache = Setting(
        Choice("never", "metadata", "auto", "always", synonyms={"none": "never"}),
        "auto",
        "How much the guest may cache: never, metadata, auto or always.",
        annotation=True,
    )
    virtio_fs_cache_size = Setting(
        Integer(), 0, "MiB of a DAX window.", annotation=True, ignored="Debian's QEMU has no DAX window for virtio-fs"
    )
    virtio_fs_queue_size = Setting(
        Integer(), 1024, "Entries of the virtio-fs queue.", ignored="QEMU's own size is used"
    )
    # As an annotation this is how CVE-2026-44210 got a tenant's words into argv: pods cannot set it at all.
    virtio_fs_extra_args = Setting(
        Words(),
        (),
        "More options for virtiofsd. A pod cannot give any.",
        ignored=FIXED,
        quiet=(
            ("--thread-pool-size=1", "--announce-submounts"),
            ("--thread-pool-size=1", "-o", "announce_submounts"),
        ),
    )
    msize_9p = Setting(
        Integer(4096),
        512_000,
        "Bytes of the largest 9p message; more than 512000 is not used by the guest.",
        annotation=True,
    )
    prefetch_list_path = Setting(
        Path(),
        "",
        "A list of files to read ahead.",
        annotation="hypervisor.prefetch_files.list",
        ignored="nothing is read ahead",
    )

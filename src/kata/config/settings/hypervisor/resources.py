"""CPUs and memory."""

from kata.config.kinds import Choice, Flag, Integer, Mebibytes, Number, Path, Words
from kata.config.setting import Setting
from kata.config.settings.hypervisor.table import HypervisorTable

NO_NUMA = "guests have one NUMA node"
NO_GUEST_SWAP = "the guest gets no swap disks"


class Cpu(HypervisorTable):
    """How many CPUs, and how they are made."""

    default_vcpus = Setting(
        Number(-(2.0**31)),
        1.0,
        "CPUs at boot, rounded up once the containers' are added. 0 is 1; negative, or more than the host has: all.",
        annotation=True,
    )
    default_maxvcpus = Setting(
        Integer(),
        0,
        "The most CPUs that the machine can have. 0, or more than the host has: all of the host's, 240 at most.",
        annotation="hypervisor.default_max_vcpus",
    )
    overhead_vcpus = Setting(
        Number(), 0.0, "CPUs added to the containers' when the size is fixed (`static_sandbox_resource_mgmt`)."
    )
    enable_numa = Setting(Flag(), False, "Show the host's NUMA layout to the guest.", ignored=NO_NUMA)
    numa_mapping = Setting(
        Words(), (), "The host's nodes for each node of the guest.", annotation=True, ignored=NO_NUMA
    )
    disable_nested_virtualization = Setting(
        Flag(), False, "Take virtualisation out of the guest's CPU.", quiet=(True,), ignored="it is out already"
    )


class Memory(HypervisorTable):
    """How much memory, and what it is made of."""

    default_memory = Setting(
        Mebibytes(), 2048, "MiB of memory at boot. Less than 96 is taken as 2048.", annotation=True
    )
    default_maxmemory = Setting(
        Mebibytes(maximum=2**40), 0, "The most MiB that memory can grow to. 0, or more than the host has: all of it."
    )
    overhead_memory = Setting(Mebibytes(), 0, "MiB added to the containers' when the size is fixed.")
    memory_slots = Setting(Integer(), 10, "How often memory can be added. 0 is 10.", annotation=True)
    memory_offset = Setting(
        Mebibytes(maximum=2**40),
        0,
        "MiB of address space set aside besides memory.",
        annotation=True,
        ignored="no disk is memory, which needed room there",
    )
    enable_virtio_mem = Setting(
        Flag(),
        False,
        "Grow and shrink memory by virtio-mem instead of by slots.",
        annotation=True,
        ignored="memory grows by slots, and is given back by the balloon",
    )
    enable_mem_prealloc = Setting(Flag(), False, "Take all memory from the host at boot.", annotation=True)
    reclaim_guest_freed_memory = Setting(
        Flag(),
        True,
        "Give memory that the guest frees back to the host (balloon, free page reporting). Such a guest has a copy of"
        " its template's memory.",
        annotation=True,
        aliases=("hypervisor.enable_balloon_f_reporting",),
    )
    enable_hugepages = Setting(Flag(), False, "Make the guest's memory of huge pages.", annotation=True)
    hugepage_type = Setting(
        Choice("hugetlbfs", "thp"), "hugetlbfs", "Which huge pages: hugetlbfs or thp.", annotation=True
    )
    file_mem_backend = Setting(
        Path(),
        "",
        "A folder for memory that is a file.",
        annotation=True,
        allowed_by="valid_file_mem_backends",
        ignored="where memory is a file, its place is fixed",
    )
    enable_swap = Setting(
        Flag(), False, "Let the host swap the guest's memory.", annotation=True, ignored="it always may"
    )
    enable_guest_swap = Setting(
        Flag(), False, "Add swap disks for containers that ask for swap.", annotation=True, ignored=NO_GUEST_SWAP
    )
    guest_swap_path = Setting(Path(), "/run/kata-containers/swap", "The folder of swap disks.", ignored=NO_GUEST_SWAP)
    guest_swap_size_percent = Setting(Integer(), 100, "The size of swap in percent of memory.", ignored=NO_GUEST_SWAP)
    guest_swap_create_threshold_secs = Setting(
        Integer(), 60, "Seconds to wait before swap is made.", ignored=NO_GUEST_SWAP
    )

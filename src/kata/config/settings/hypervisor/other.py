"""Looking for faults, and keys for other VMMs."""

from kata.config.kinds import Choice, Flag, Integer, Path, Text
from kata.config.setting import Setting
from kata.config.settings.hypervisor.table import HypervisorTable

REMOTE = "there is no driver for remote hypervisors"
NO_DUMP = "guest memory is not dumped"


class Other(HypervisorTable):
    """Debugging, the remote hypervisor, numbers of one VMM."""

    enable_debug = Setting(Flag(), False, "Log more about the VMM, and the guest's console with it.")
    log_level = Setting(Text(), "info", "The VMM's level of logging.", ignored="`enable_debug` says how much is logged")
    hypervisor_loglevel = Setting(
        Integer(0, 3), 1, "Cloud Hypervisor's level of logging.", ignored="only Cloud Hypervisor has it"
    )
    extra_monitor_socket = Setting(
        Choice("", "hmp", "qmp", "qmp-pretty"),
        "",
        "One more monitor of QEMU, for debugging: hmp, qmp or qmp-pretty.",
        aliases=("hypervisor.dbg_monitor_socket",),
        ignored="there is one monitor, and it is ours",
    )
    guest_memory_dump_path = Setting(
        Path(), "", "Where guest memory goes when the guest's kernel panics.", ignored=NO_DUMP
    )
    guest_memory_dump_paging = Setting(Flag(), False, "Dump it by virtual addresses.", ignored=NO_DUMP)
    disable_nesting_checks = Setting(
        Flag(),
        False,
        "Do not look whether this host is a VM itself.",
        quiet=(True,),
        ignored="the accelerator is probed by booting, which needs no such check",
    )
    remote_hypervisor_socket = Setting(
        Path(),
        "/run/peerpod/hypervisor.sock",
        "The socket of the remote hypervisor.",
        aliases=("hypervisor.hypervisor_socket",),
        ignored=REMOTE,
    )
    remote_hypervisor_timeout = Setting(
        Integer(),
        600,
        "Seconds to wait for it.",
        aliases=("hypervisor.hypervisor_timeout",),
        ignored=REMOTE,
    )
    default_gpus = Setting(Integer(), 0, "GPUs for a remote VM.", annotation=True, ignored=REMOTE)
    default_gpu_model = Setting(Text(), "", "Their model.", annotation=True, ignored=REMOTE)

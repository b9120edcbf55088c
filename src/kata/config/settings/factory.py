"""`[factory]`: sandboxes from a template instead of from a cold boot."""

from kata.config.kinds import Flag, Integer, Path
from kata.config.setting import Section, Setting

NO_CACHE = "a template starts a VM as fast as a cache hands one out"


class Factory(Section):
    """Templates, and a cache of started VMs. runtime-rs has it as `[hypervisor.NAME.factory]`."""

    section = "factory"

    enable_template = Setting(
        Flag(),
        True,
        "Start every VM as a copy of one that was booted and saved before, where that can be.",
        aliases=("hypervisor.factory.enable_template",),
    )
    template_path = Setting(
        Path(),
        "",
        "The folder of the saved VMs; empty for the one beside the guest's image.",
        aliases=("hypervisor.factory.template_path",),
    )
    vm_cache_number = Setting(Integer(), 0, "How many started VMs stand ready; 0 for none.", ignored=NO_CACHE)
    vm_cache_endpoint = Setting(
        Path(), "/var/run/kata-containers/cache.sock", "The socket of the cache's server.", ignored=NO_CACHE
    )

"""What depends on two settings, or on the host: numbers that stand for "all", and values that exclude each other.

The rules are upstream's (configuration facts, section 3). A number that upstream quietly replaces is replaced here as
well, and the replacement is noted with the value's origin, where `kata config show` prints it.
"""

from __future__ import annotations

import os

from kata.config.finding import ANNOTATION, Findings
from kata.config.host import Host
from kata.config.index import by_key
from kata.config.model import Draft
from kata.config.setting import AnySetting
from kata.config.settings import Agent, Factory, Hypervisor, Runtime
from kata.config.settings.hypervisor import SYNONYMS

MAXIMUM_VCPUS = 240
"""QEMU's limit for q35 with the interrupt remapping that guests have."""
DEFAULT_MEMORY_MIB = 2048
MINIMUM_MEMORY_MIB = 96
"""Below this a guest does not get as far as its agent (measured; docs/performance.md)."""
DEFAULT_SLOTS = 10
MAXIMUM_BRIDGES = 5
MAXIMUM_PORTS = 16


class Rules:
    """One pass over a draft: it is adjusted, and `findings` gets what cannot be."""

    def __init__(self, draft: Draft, host: Host, findings: Findings) -> None:
        self.draft = draft
        self.host = host
        self.findings = findings

    def apply(self) -> None:
        """Everything. What has no effect is said first, while values are still those that were given."""
        self.unheeded()
        self.names()
        self.assets()
        self.vcpus()
        self.memory()
        self.buses()
        self.disks()
        self.network()
        self.volumes()
        self.factory()
        self.timeouts()

    def names(self) -> None:
        """A pod may name the hypervisor that there is, and no other. What a file names was settled by `merge`."""
        name = self.draft.get(Runtime.hypervisor_name)
        if self.is_annotation(Runtime.hypervisor_name) and SYNONYMS.get(name, name) != self.draft.hypervisor_name:
            self.error(Runtime.hypervisor_name, f"the operator has set up {self.draft.hypervisor_name} alone", "")

    def assets(self) -> None:
        """One root file system: the default image holds only where nobody names another or an initrd."""
        if self.draft.get(Hypervisor.initrd):
            if self.draft.origin(Hypervisor.image).kind == "default":
                self.draft.set(Hypervisor.image, "", self.draft.origin(Hypervisor.initrd))
            elif self.draft.get(Hypervisor.image):
                self.error(Hypervisor.initrd, "there is an image as well", "set one of the two to nothing")
        elif not self.draft.get(Hypervisor.image):
            self.draft.adjust(Hypervisor.image, Hypervisor.image.default, "the default, as there is no initrd")
        if not self.draft.get(Hypervisor.kernel):
            self.draft.adjust(Hypervisor.kernel, Hypervisor.kernel.default, "the default")

    def vcpus(self) -> None:
        """All CPUs of the host where the number is negative, 0 or too large; each in its own way."""
        count, most, here = (
            self.draft.get(Hypervisor.default_vcpus),
            self.draft.get(Hypervisor.default_maxvcpus),
            self.host.cpus,
        )
        note = f"CPUs of this host: {here}"
        for setting, number in ((Hypervisor.default_vcpus, count), (Hypervisor.default_maxvcpus, most)):
            if number > here and self.is_annotation(setting):
                self.error(setting, f"this host has {here} CPUs", f"give {here} or less")
        if count == 0:
            self.draft.adjust(Hypervisor.default_vcpus, 1.0, "at least 1")
        elif count < 0 or count > here:
            self.draft.adjust(Hypervisor.default_vcpus, float(here), note)
        if most == 0 or most > here:
            self.draft.adjust(Hypervisor.default_maxvcpus, here, note)
        if self.draft.get(Hypervisor.default_maxvcpus) > MAXIMUM_VCPUS:
            self.draft.adjust(Hypervisor.default_maxvcpus, MAXIMUM_VCPUS, "QEMU's limit")
        if self.draft.get(Hypervisor.default_vcpus) > self.draft.get(Hypervisor.default_maxvcpus):
            self.error(Hypervisor.default_vcpus, "it is more than default_maxvcpus", "raise that, or lower this")

    def memory(self) -> None:
        """Enough to boot; what it can grow to; slots."""
        size = self.draft.get(Hypervisor.default_memory)
        if size < MINIMUM_MEMORY_MIB:
            if self.is_annotation(Hypervisor.default_memory):
                self.error(
                    Hypervisor.default_memory, f"{size} MiB are too little", f"give {MINIMUM_MEMORY_MIB} or more"
                )
            elif size:
                self.warn(Hypervisor.default_memory, f"{size} MiB are too little, {DEFAULT_MEMORY_MIB} are taken")
            self.draft.adjust(Hypervisor.default_memory, DEFAULT_MEMORY_MIB, f"less than {MINIMUM_MEMORY_MIB} MiB")
        most, here = self.draft.get(Hypervisor.default_maxmemory), self.host.memory_mib
        if most == 0 or most > here:
            self.draft.adjust(Hypervisor.default_maxmemory, here, f"MiB of this host: {here}")
        size = self.draft.get(Hypervisor.default_memory)
        if self.draft.get(Hypervisor.default_maxmemory) < size:
            self.draft.adjust(Hypervisor.default_maxmemory, size, "as much as default_memory")
        if not self.draft.get(Hypervisor.memory_slots):
            if self.is_annotation(Hypervisor.memory_slots):
                self.error(Hypervisor.memory_slots, "there must be one at least", "give 1 or more")
            self.draft.adjust(Hypervisor.memory_slots, DEFAULT_SLOTS, "0 is the default")
        if (needed := _size_mib(self.draft.get(Hypervisor.initrd))) >= size:
            self.error(
                Hypervisor.initrd, f"its {needed} MiB do not fit into {size} MiB of memory", "raise default_memory"
            )
        if self.draft.get(Hypervisor.enable_numa) and not self.draft.get(Runtime.static_sandbox_resource_mgmt):
            self.error(Hypervisor.enable_numa, "it needs static_sandbox_resource_mgmt", "set both or none")

    def buses(self) -> None:
        """Bridges and ports within their limits; host devices plugged in before or after the start, not both."""
        bridges = self.draft.get(Hypervisor.default_bridges)
        self.draft.adjust(Hypervisor.default_bridges, min(max(bridges, 1), MAXIMUM_BRIDGES), "1 to 5")
        for setting in (Hypervisor.pcie_root_port, Hypervisor.pcie_switch_port):
            if self.draft.get(setting) > MAXIMUM_PORTS:
                self.error(setting, "it is out of range", f"{MAXIMUM_PORTS} are possible")
        if self.draft.get(Hypervisor.pcie_root_port) and self.draft.get(Hypervisor.pcie_switch_port):
            self.error(Hypervisor.pcie_switch_port, "there are root ports as well", "set one of the two to 0")
        if "no-port" not in (self.draft.get(Hypervisor.hot_plug_vfio), self.draft.get(Hypervisor.cold_plug_vfio)):
            self.error(Hypervisor.hot_plug_vfio, "cold_plug_vfio is set as well", "set one of the two to no-port")
        if self.draft.get(Hypervisor.enable_vhost_user_store) and not self.draft.get(Hypervisor.enable_hugepages):
            self.error(Hypervisor.enable_vhost_user_store, "it needs huge pages", "set enable_hugepages")

    def disks(self) -> None:
        """Sizes of sectors and queues that exist; what asks for Linux's own asynchronous I/O goes around the cache."""
        logical = self.draft.get(Hypervisor.block_device_logical_sector_size)
        physical = self.draft.get(Hypervisor.block_device_physical_sector_size)
        for setting, size in (
            (Hypervisor.block_device_logical_sector_size, logical),
            (Hypervisor.block_device_physical_sector_size, physical),
        ):
            if size and (size < 512 or size & (size - 1)):
                self.error(setting, f"{size} is no sector size", "give 0, or a power of two from 512 to 65536")
        if physical and logical > physical:
            self.error(Hypervisor.block_device_logical_sector_size, "it is more than the physical one", "swap them")
        entries = self.draft.get(Hypervisor.queue_size)
        if entries < 4 or entries & (entries - 1):
            self.error(Hypervisor.queue_size, f"{entries} is no size of a queue", "give a power of two from 4 to 1024")
        direct = self.draft.get(Hypervisor.block_device_cache_set) and self.draft.get(
            Hypervisor.block_device_cache_direct
        )
        if self.draft.get(Hypervisor.block_device_aio) == "native" and not direct:
            hint = "set block_device_cache_set and block_device_cache_direct"
            self.error(Hypervisor.block_device_aio, "native goes around the host's page cache", hint)

    def network(self) -> None:
        """Without a namespace of its own nothing can be joined."""
        if self.draft.get(Runtime.disable_new_netns) and self.draft.get(Runtime.internetworking_model) != "none":
            self.error(Runtime.disable_new_netns, "it goes with internetworking_model none alone", "set both or none")

    def volumes(self) -> None:
        """Paths that every guest sees: their last parts name them there."""
        names: dict[str, str] = {}
        for mount in self.draft.get(Runtime.sandbox_bind_mounts):
            path = mount.removesuffix(":ro").removesuffix(":rw").rstrip("/")
            name = path.rpartition("/")[2]
            if not name or name == ".." or "/../" in path:
                self.error(Runtime.sandbox_bind_mounts, f"{path or '/'} has no name", "give a path below /, without ..")
            elif name in names:
                self.error(Runtime.sandbox_bind_mounts, f"{names[name]} and {path} have the same name", "keep one")
            names[name] = path

    def factory(self) -> None:
        """Caches of VMs are QEMU's."""
        if self.draft.get(Factory.vm_cache_number) and self.draft.hypervisor_name != "qemu":
            self.error(Factory.vm_cache_number, "only qemu has a cache of VMs", "set it to 0")

    def timeouts(self) -> None:
        """A single try is not longer than all of them."""
        if self.draft.get(Agent.dial_timeout_ms) > self.draft.get(Agent.dial_timeout) * 1000:
            if self.draft.origin(Agent.dial_timeout_ms).kind == "default":
                self.draft.adjust(Agent.dial_timeout_ms, max(1, int(self.draft.get(Agent.dial_timeout) * 1000)), "")
            else:
                self.error(Agent.dial_timeout_ms, "one try is longer than all of dial_timeout", "lower it")

    def unheeded(self) -> None:
        """Say what was set and has no effect."""
        for name in list(self.draft.origins):
            setting = by_key()[name][0] if name in by_key() else None
            if setting is not None and (why := setting.why_ignored(self.draft.get(setting))):
                self.warn(setting, f"it has no effect: {why}")

    def is_annotation(self, setting: AnySetting) -> bool:
        """Whether a pod set it."""
        return self.draft.origin(setting).kind == "annotation"

    def error(self, setting: AnySetting, why: str, suggestion: str) -> None:
        """A value that cannot be."""
        self.findings.error(self.draft.display(setting), why, suggestion, self.place(setting))

    def warn(self, setting: AnySetting, why: str, suggestion: str = "") -> None:
        """A value that is not what it seems."""
        self.findings.warn(self.draft.display(setting), why, suggestion, self.place(setting))

    def place(self, setting: AnySetting) -> str:
        """The file that set it, or that it was a pod."""
        return ANNOTATION if self.is_annotation(setting) else self.draft.origin(setting).where


def _size_mib(path: str) -> int:
    """The size of a file; 0 when there is none, which is for whoever starts the VM to say."""
    try:
        return os.stat(path).st_size // 1024**2 if path else 0
    except OSError:
        return 0

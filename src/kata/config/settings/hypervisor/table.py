"""What all parts of the hypervisor's table share."""

from kata.config.setting import Section


class HypervisorTable(Section):
    """One of the groups of settings that make up `[hypervisor.NAME]`."""

    section = "hypervisor"

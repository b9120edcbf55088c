"""`[hypervisor.NAME]`: the machine. NAME says which VMM; only QEMU can be run, files for all of them load."""

from kata.config.settings.hypervisor.annotations import Annotations
from kata.config.settings.hypervisor.block import Block
from kata.config.settings.hypervisor.boot import Boot
from kata.config.settings.hypervisor.devices import Devices
from kata.config.settings.hypervisor.network import Network
from kata.config.settings.hypervisor.other import Other
from kata.config.settings.hypervisor.resources import Cpu, Memory
from kata.config.settings.hypervisor.security import Confidential, Security
from kata.config.settings.hypervisor.sharing import Sharing


class Hypervisor(Boot, Annotations, Cpu, Memory, Sharing, Block, Network, Devices, Security, Confidential, Other):
    """The machine that a sandbox runs in."""


NAMES = ("qemu", "clh", "firecracker", "dragonball", "stratovirt", "remote", "openvmm", "acrn")
"""What a file may be written for."""

SYNONYMS = {"cloud-hypervisor": "clh"}

RUNNABLE = ("qemu",)
"""What there is a driver for (`kata.hypervisor.registry`)."""

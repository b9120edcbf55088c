"""All settings there are, by table of configuration.toml. One file a table; the hypervisor's is in `hypervisor/`.

To add a setting, declare it there and run `make settings`, which writes the documentation and the default file.
"""

from kata.config.settings.agent import Agent, MemAgent
from kata.config.settings.factory import Factory
from kata.config.settings.hypervisor import Hypervisor
from kata.config.settings.obsolete import Image, Netmon
from kata.config.settings.runtime import Runtime

SECTIONS = (Hypervisor, Factory, Agent, MemAgent, Runtime, Netmon, Image)
"""In the order of the default file."""

__all__ = ["SECTIONS", "Agent", "Factory", "Hypervisor", "Image", "MemAgent", "Netmon", "Runtime"]

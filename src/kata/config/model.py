"""The configuration as a whole: frozen once it is made (`Config`), and while it is being made (`Draft`).

Run-time state of a sandbox never goes in here.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from kata.config.errors import UnsupportedConfigError
from kata.config.finding import Finding
from kata.config.setting import AnySetting, Section, Setting
from kata.config.settings import SECTIONS, Agent, Factory, Hypervisor, Image, MemAgent, Netmon, Runtime
from kata.config.settings.hypervisor import RUNNABLE

T = TypeVar("T")


class Origin(NamedTuple):
    """Where a value came from: `kind` is default, file, drop-in or annotation; `where` the file or annotation.

    `note` says what was made of it afterwards: the number of CPUs of this host instead of 0, for instance.
    """

    kind: str
    where: str = ""
    note: str = ""

    def __str__(self) -> str:
        return f"{self.where or self.kind}{f' ({self.note})' if self.note else ''}"


DEFAULT = Origin("default")


class Config(NamedTuple):
    """What holds for one sandbox. Values are read as `config.hypervisor.default_vcpus`.

    `path` is the main file (empty without one), `drop_ins` those that were read after it, `origins` has an entry for
    each value that somebody set, `warnings` what whoever loads it should log.
    """

    hypervisor_name: str
    hypervisor: Hypervisor
    factory: Factory
    agent: Agent
    mem_agent: MemAgent
    runtime: Runtime
    netmon: Netmon
    image: Image
    path: str
    drop_ins: tuple[str, ...]
    origins: Mapping[str, Origin]
    warnings: tuple[Finding, ...]

    def section(self, kind: type[Section]) -> Section:
        """The values of one table."""
        return next(value for value in self if type(value) is kind)

    def origin(self, setting: AnySetting) -> Origin:
        """Where the value of `setting` came from."""
        return self.origins.get(setting.name, DEFAULT)

    def display(self, setting: AnySetting) -> str:
        """The full name of a setting, as a user knows it: `hypervisor.qemu.default_vcpus`."""
        return f"{table_name(setting.section, self.hypervisor_name)}.{setting.key}"

    def check_runnable(self) -> None:
        """Raise UnsupportedConfigError when this needs another VMM, or something that must not be left out silently.

        Loading does not ask, so that files for other VMMs can be read and shown. Whoever starts a sandbox has to.
        """
        reasons = self.unsupported()
        if reasons:
            key, why = reasons[0]
            rest = "\n".join(f"{name}: {reason}" for name, reason in reasons[1:])
            raise UnsupportedConfigError(
                f"{key}: {why}", hint=f"change it in {self.path or 'the configuration'}", detail=rest
            )

    def unsupported(self) -> list[tuple[str, str]]:
        """What `check_runnable` complains of: names of settings, and why each cannot be had."""
        found = []
        if self.hypervisor_name not in RUNNABLE:
            found.append((f"hypervisor.{self.hypervisor_name}", f"only {' and '.join(RUNNABLE)} can be run"))
        for kind in SECTIONS:
            values = self.section(kind).values
            for setting in kind.settings():
                if why := setting.why_refused(values[setting.key]):
                    found.append((self.display(setting), why))
        return found


class Draft:
    """Values while they come together: later ones replace earlier ones, and each is noted with its origin."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}  # settings differ in type; `get` and `set` keep to each one's
        self.origins: dict[str, Origin] = {}
        self.hypervisor_name = "qemu"
        self.path = ""
        self.drop_ins: tuple[str, ...] = ()

    def get(self, setting: Setting[T]) -> T:
        """The value as it stands."""
        value: T = self.values.get(setting.name, setting.default)
        return value

    def set(self, setting: Setting[T], value: T, origin: Origin) -> None:
        """Replace a value."""
        self.values[setting.name] = value
        self.origins[setting.name] = origin

    def adjust(self, setting: Setting[T], value: T, note: str) -> None:
        """Replace a value by what it comes to on this host; whoever set it stays its origin."""
        if value != self.get(setting):
            self.set(setting, value, self.origin(setting)._replace(note=note))

    def origin(self, setting: AnySetting) -> Origin:
        """Where the value came from."""
        return self.origins.get(setting.name, DEFAULT)

    def display(self, setting: AnySetting) -> str:
        """The name of a setting for messages: its annotation's where that set it, else as in a file."""
        origin = self.origin(setting)
        if origin.kind == "annotation":
            return origin.where
        return f"{table_name(setting.section, self.hypervisor_name)}.{setting.key}"

    def freeze(self, warnings: tuple[Finding, ...]) -> Config:
        """The finished configuration."""
        hypervisor, factory, agent, mem_agent, runtime, netmon, image = (
            {setting.key: self.get(setting) for setting in kind.settings()} for kind in SECTIONS
        )
        return Config(
            hypervisor_name=self.hypervisor_name,
            hypervisor=Hypervisor(hypervisor),
            factory=Factory(factory),
            agent=Agent(agent),
            mem_agent=MemAgent(mem_agent),
            runtime=Runtime(runtime),
            netmon=Netmon(netmon),
            image=Image(image),
            path=self.path,
            drop_ins=self.drop_ins,
            origins=MappingProxyType(dict(self.origins)),
            warnings=warnings,
        )


def table_name(section: str, hypervisor_name: str) -> str:
    """The table of the file in which a section stands: `hypervisor.qemu`, `agent.kata.mem_agent`, `runtime`."""
    first, _, rest = section.partition(".")
    name = {"hypervisor": f"hypervisor.{hypervisor_name}", "agent": "agent.kata"}.get(first, first)
    return f"{name}.{rest}" if rest else name

"""A setting that is documented as having an effect is read by somebody.

One that cannot be honoured is declared `ignored` or `refused` instead.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest

from kata.config.render import is_honoured
from kata.config.setting import AnySetting
from kata.config.settings import SECTIONS
from kata.config.settings.hypervisor.annotations import Annotations

SOURCES = Path(__file__).parents[3] / "src/kata"


def readers(setting: AnySetting) -> list[str]:
    """The modules, besides this room's own, in which the setting is read from a configuration."""
    attribute = re.compile(rf"\b{setting.section}\.{setting.key}\b")
    return [name for name, text in _modules().items() if attribute.search(text)]


@functools.cache
def _modules() -> dict[str, str]:
    """Host modules that may go by a configuration: not those that load, check and show it, nor the guest's."""
    found = {}
    for path in SOURCES.rglob("*.py"):
        name = path.relative_to(SOURCES).as_posix()
        if name == "config/guest.py" or not name.startswith(("agent/", "config/", "ctl/commands/config")):
            found[name] = path.read_text()
    return found


def candidates() -> list[AnySetting]:
    """Settings with an effect that is somebody else's: not the lists that this room itself goes by."""
    own = {setting.name for setting in Annotations.settings()}
    own |= {"runtime.name", "runtime.hypervisor_name", "runtime.agent_name"}
    return [
        setting
        for section in SECTIONS
        for setting in section.settings()
        if is_honoured(setting) and setting.in_file and setting.name not in own
    ]


def test_what_has_an_effect_is_read_by_somebody() -> None:
    problems = [
        f"{setting.name}: nobody reads it: wire it, or declare why it is ignored"
        for setting in candidates()
        if not readers(setting)
    ]
    if problems:
        pytest.fail("\n".join(sorted(problems)), pytrace=False)

#!/usr/bin/env python3
"""Make docs/configuration.md and packaging/config/configuration-qemu.toml from the declarations of settings.

Run by developers after a change below src/kata/config/settings (`make settings`); a test makes both anew and compares.
The words around the tables are in docs/configuration.md.in.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kata.config.setting import AnySetting

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

TABLES = {
    "hypervisor": "`[hypervisor.qemu]`",
    "factory": "`[factory]`",
    "agent": "`[agent.kata]`",
    "agent.mem_agent": "`[agent.kata.mem_agent]`",
    "runtime": "`[runtime]`",
    "netmon": "`[netmon]`",
    "image": "`[image]`",
}
PLACE = "<!-- tables -->\n"


def outputs() -> dict[Path, str]:
    """What each generated file holds. Independent of where this host has its guest assets."""
    os.environ.pop("KATA_DATA_DIR", None)
    from kata.config.render import default_file

    prose = (ROOT / "docs/configuration.md.in").read_text()
    return {
        ROOT / "docs/configuration.md": prose.replace(PLACE, tables()),
        ROOT / "packaging/config/configuration-qemu.toml": default_file(),
    }


def tables() -> str:
    """A table of what has an effect and one of what has none, for each table of the file."""
    from kata.config.render import is_honoured
    from kata.config.settings import SECTIONS

    lines: list[str] = []
    for section in SECTIONS:
        settings = list(section.settings())
        lines += [f"## {TABLES[section.section]}", ""]
        honoured = [setting for setting in settings if is_honoured(setting)]
        if honoured:
            lines += ["| key | kind | default | meaning |", "|---|---|---|---|"]
            lines += [_row(setting, setting.help) for setting in honoured] + [""]
        others = [setting for setting in settings if not is_honoured(setting)]
        if others:
            lines += ["Known, and without effect here:", "", "| key | kind | default | what and why not |"]
            lines += ["|---|---|---|---|"] + [_row(setting, _why_not(setting)) for setting in others] + [""]
    return "\n".join(lines)


def _row(setting: AnySetting, text: str) -> str:
    key = f"`{setting.key}`" if setting.in_file else f"`{setting.key}` (annotation only)"
    default = setting.kind.to_toml(setting.default)
    return f"| {key} | {_cell(setting.kind.name)} | `{_cell(default)}` | {_cell(' '.join([text, *_more(setting)]))} |"


def _more(setting: AnySetting) -> Iterator[str]:
    from kata.config.setting import PREFIX

    names = [f"`{name.removeprefix(PREFIX)}`" for name in setting.annotations]
    if names:
        yield f"Annotation: {', '.join(names)}."
    if setting.allowed_by:
        yield f"A pod's value must match `{setting.allowed_by}`."
    if setting.aliases:
        yield f"Also: {', '.join(f'`{alias}`' for alias in setting.aliases)}."
    for value, why in setting.refused_values.items():
        yield f"`{value}` is refused: {why}."


def _why_not(setting: AnySetting) -> str:
    if setting.refused:
        return f"{setting.help} No sandbox starts with it: {setting.refused}."
    return f"{setting.help} Ignored: {setting.ignored}."


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    for path, content in outputs().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)

"""Finds settings by the names that files and annotations use, and the nearest name to one that is wrong."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

from kata.config.kinds import Kind
from kata.config.setting import PREFIX, AnySetting
from kata.config.settings import SECTIONS

SUBTABLES = ("hypervisor.factory", "agent.mem_agent")
"""Sections that are tables within another's."""


LONGEST = 100
"""Characters of a name that is worth comparing; difflib's time grows with their square."""

Entry = tuple[AnySetting, Kind[Any]]
"""What a name means, and the kind that reads it: an alias may be written in another unit than its setting."""


@functools.cache
def by_key() -> dict[str, Entry]:
    """Every `section.key` that a file may have."""
    found: dict[str, Entry] = {}
    for section in SECTIONS:
        for setting in section.settings():
            if setting.in_file:
                found[setting.name] = (setting, setting.kind)
                found.update({alias: (setting, kind) for alias, kind in setting.aliases.items()})
    return found


@functools.cache
def by_annotation() -> dict[str, Entry]:
    """Every annotation that sets something, by its full name."""
    found: dict[str, Entry] = {}
    for section in SECTIONS:
        for setting in section.settings():
            for name in setting.annotations:
                found[name] = (setting, setting.kind)
    # Upstream's two runtimes read the same time in two units.
    found[PREFIX + "agent.cdh_api_timeout_ms"] = by_key()["agent.cdh_api_timeout_ms"]
    return found


def nearest(word: str, words: Iterable[str]) -> str:
    """`did you mean …`, or nothing when nothing is near."""
    if len(word) > LONGEST:
        return ""
    import difflib  # only mistakes need it

    close = difflib.get_close_matches(word, list(words), n=1, cutoff=0.6)
    return f"did you mean {close[0]}" if close else ""


def suggest(section: str, key: str) -> str:
    """What to write instead of an unknown `key` of `section`: the table it belongs to, or the nearest name."""
    elsewhere = [name for name in by_key() if name.rpartition(".")[2] == key]
    if elsewhere:
        return f"it belongs into the table of {elsewhere[0].rpartition('.')[0]}"
    here = [name.rpartition(".")[2] for name in by_key() if name.rpartition(".")[0] == section]
    return nearest(key, here)

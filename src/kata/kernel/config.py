"""Kernel configuration fragments: read, joined, and held against what the kernel's own rules made of them.

Called by `compilation`. A fragment is a file of `CONFIG_X=value` lines, one feature a file; who is given later wins.
Kconfig drops an option whose conditions are not met without a word, so everything asked for is checked after.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from kata.kernel.errors import ConfigError

FRAGMENTS = Path(__file__).with_name("fragments")
SET = re.compile(r"^(CONFIG_[A-Z0-9_a-z]+)=(.+)$")
UNSET = re.compile(r"^# (CONFIG_[A-Z0-9_a-z]+) is not set$")


class Dropped(NamedTuple):
    """An option that is not what was asked for."""

    option: str
    asked: str
    found: str


def names() -> list[str]:
    """The names of our own fragments."""
    return sorted(path.stem for path in FRAGMENTS.glob("*.conf"))


def choose(wanted: Iterable[str]) -> list[Path]:
    """The files of fragments, given by our name or as a path; all of ours when none is given, `base` first.

    Raises ConfigError for an unknown one.
    """
    chosen = list(wanted) or names()
    chosen.sort(key=lambda name: name != "base")
    files = [FRAGMENTS / f"{name}.conf" if "/" not in name else Path(name) for name in chosen]
    for name, file in zip(chosen, files, strict=True):
        if not file.is_file():
            raise ConfigError(
                f"there is no configuration fragment {name}", hint=f"ours are {', '.join(names())}; or give a path"
            )
    return files


def parse(text: str, where: str = "") -> dict[str, str]:
    """Options with their values, `n` for those that are not set.

    Raises ConfigError for a line that is neither an option nor a comment.
    """
    found = {}
    for line in text.splitlines():
        stripped = line.strip()
        if match := SET.match(stripped) or UNSET.match(stripped):
            found[match[1]] = match[2] if match.re is SET else "n"
        elif stripped and not stripped.startswith("#"):
            raise ConfigError(f"{where or 'a fragment'} holds a line that is no option: {stripped}")
    return found


def join(files: Iterable[Path]) -> dict[str, str]:
    """The options of several fragments."""
    joined: dict[str, str] = {}
    for file in files:
        joined |= parse(file.read_text(), str(file))
    return joined


def render(options: Mapping[str, str]) -> str:
    """Options in the form that Kconfig reads."""
    lines = (f"# {name} is not set" if value == "n" else f"{name}={value}" for name, value in sorted(options.items()))
    return "".join(f"{line}\n" for line in lines)


def dropped(asked: Mapping[str, str], found: Mapping[str, str]) -> list[Dropped]:
    """The options that came out otherwise than asked for."""
    return [
        Dropped(option, value, found.get(option, "n"))
        for option, value in sorted(asked.items())
        if found.get(option, "n") != value
    ]

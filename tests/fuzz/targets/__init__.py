"""What is fuzzed: a module for each parser, or for a few that read the same bytes.

A module has `target(data)`, which raises for a bug alone: only the errors that the parser's room has for hostile input
are caught in it. `SEEDS` are inputs that lead far into it, `TOKENS` words that change what is read. Both drivers (the
tests here, and `make fuzz`) find them by the file's name, which is also the folder of its corpus.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent
CORPUS = HERE.parent / "corpus"


class Target(NamedTuple):
    """A parser: its name, the function, and what a driver begins with."""

    name: str
    run: Callable[[bytes], None]
    seeds: tuple[bytes, ...]
    tokens: tuple[bytes, ...]

    @property
    def corpus(self) -> Path:
        """The folder of inputs that were a bug once."""
        return CORPUS / self.name


def names() -> list[str]:
    """All targets."""
    return sorted(path.stem for path in HERE.glob("[a-z]*.py"))


def load(name: str) -> Target:
    """A target by its name. Raises ModuleNotFoundError."""
    module = importlib.import_module(f"{__name__}.{name}")
    return Target(name, module.target, module.SEEDS, getattr(module, "TOKENS", ()))

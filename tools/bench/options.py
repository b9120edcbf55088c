"""What `make bench` is told: which parts, how often, compared with which revision. Pure."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

DEFAULT_RUNS, DEFAULT_SANDBOXES = 10, 10
ABOUT = """Measure what a container in a virtual machine costs on this machine, next to the same thing without one.
Every figure is compared with another one of the same run, taken in turns."""
VARIABLES = """through make: make bench PARTS="start density" RUNS=20 SANDBOXES=50 BASE=v1.0

exit code: 0; 1 when a part failed (the figures of the others are written all the same); 130 after Ctrl-C."""


class Options(NamedTuple):
    """`base` is a revision of git's to compare with, or empty."""

    parts: tuple[str, ...]
    runs: int = DEFAULT_RUNS
    sandboxes: int = DEFAULT_SANDBOXES
    base: str = ""
    output: Path = Path("bench.json")
    docs: bool = False


def parse(words: list[str], parts: dict[str, str], output: Path) -> Options:
    """The options of a command line; `parts` are names with what they measure. Ends the program for wrong ones."""
    listed = "\n".join(f"  {name:<10} {text}" for name, text in parts.items())
    parser = argparse.ArgumentParser(
        prog="bench",
        description=ABOUT,
        epilog=f"parts:\n{listed}\n\n{VARIABLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--parts", nargs="+", metavar="PART", choices=list(parts), help="these alone (default: all)")
    parser.add_argument("--runs", type=_count, default=DEFAULT_RUNS, metavar="N", help="turns (default: %(default)s)")
    parser.add_argument(
        "--sandboxes",
        type=_count,
        default=DEFAULT_SANDBOXES,
        metavar="N",
        help="how many the part density starts (default: %(default)s)",
    )
    parser.add_argument("--base", default="", metavar="REVISION", help="measure this revision too, in turns with this")
    parser.add_argument("--output", type=Path, default=output, metavar="FILE", help="where the JSON goes")
    parser.add_argument("--docs", action="store_true", help="measure nothing; bring the figures of FILE into docs/")
    found = parser.parse_args(words)
    if found.base.startswith("-"):
        parser.error(f"{found.base!r} is no revision")
    chosen = tuple(name for name in parts if not found.parts or name in found.parts)
    return Options(chosen, found.runs, found.sandboxes, found.base, found.output, found.docs)


def _count(word: str) -> int:
    if not word.isascii() or not word.isdecimal() or not int(word):
        raise argparse.ArgumentTypeError(f"{word!r} is no whole number from 1 on")
    return int(word)

"""Figures in the documentation: docs/bench.json is what was measured, and tables and pictures are made of it alone.

`make bench-docs` brings the parts of the last run into docs/bench.json and makes the rest anew: what is between the
markers of docs/performance.md, and docs/images/bench-*.svg. A test holds that nothing there is older than the JSON.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from tools.bench import aims, report
from tools.bench.plot import svg
from tools.bench.tables import markdown, tables

if TYPE_CHECKING:
    from tools.bench.report import Circumstances, Part, Report

DOCS = Path(__file__).parents[2] / "docs"
JSON, PAGE, IMAGES = "bench.json", "performance.md", "images"
BLOCK = re.compile(r"(<!-- bench:([a-z]+) -->\n).*?(<!-- bench: end -->)", re.DOTALL)
ALL = "all"
"""The block of all parts together: the aims, and what was measured on which machine."""


def update(new: Report | None, docs: Path = DOCS) -> list[str]:
    """Bring a run's figures into the documentation; the files that are others now. None: with the figures there are."""
    path = docs / JSON
    old = report.read(path) if path.exists() else report.Report({})
    found = report.joined(old, new) if new is not None else old
    report.write(found, path)
    changed = []
    for name, text in files(found, (docs / PAGE).read_text()).items():
        file = docs / name
        if not file.exists() or file.read_text() != text:
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)
            changed.append(name)
    return changed


def files(found: Report, page: str) -> dict[str, str]:
    """What is made of a report: the page with its blocks filled in, and the pictures. Pure."""
    made = {PAGE: fill(page, found)}
    for name, part in found.parts.items():
        if picture := svg(part):
            made[f"{IMAGES}/bench-{name}.svg"] = picture
    return made


def fill(page: str, found: Report) -> str:
    """The page with what is in its blocks made anew. A block of a part that was never measured says so."""

    def block(match: re.Match[str]) -> str:
        name = match[2]
        if name == ALL:
            text = _overview(found)
        elif name in found.parts:
            text = _part(name, found.parts[name])
        else:
            text = "Not measured yet."
        return f"{match[1]}{text}\n{match[3]}"

    return BLOCK.sub(block, page)


def _overview(found: Report) -> str:
    machines: dict[str, list[str]] = {}
    for name, part in found.parts.items():
        if part.circumstances is not None:
            machines.setdefault(_machine(part.circumstances), []).append(name)
    lines = [f"* {', '.join(names)}: {machine}." for machine, names in machines.items()]
    return "\n".join([markdown(aims.table(found)), "", "Measured on:", "", *lines])


def _machine(here: Circumstances) -> str:
    what = here.machine
    return (
        f"{what['processor']}, Linux {what['kernel']}, QEMU {what['qemu']}, {what['accelerator']},"
        f" Python {what['python']}"
    )


def _part(name: str, part: Part) -> str:
    blocks = [markdown(table) for table in tables(part)]
    if part.comparisons:
        blocks.insert(0, f"![ratios as bars](images/bench-{name}.svg)")
    if part.circumstances is not None:
        here = part.circumstances
        took = f"{part.seconds:.0f} s, load {here.load:.2f} at the start"
        blocks.append(f"Measured on {here.date} at revision {here.revision or 'unknown'}: {took}.")
    return "\n\n".join(blocks)

"""docs/reliability.md from what runs have recorded: attacks tried, cuts survived, inputs fuzzed, faults made.

`make reliability-docs` brings the records below `$KATA_DATA_DIR/reliability` (tests/helpers/reliability.py) into
docs/reliability.json, and makes what is between the page's markers of that file alone. A test holds them together.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import TypedDict

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
JSON, PAGE = "reliability.json", "reliability.md"
PARTS = ("attacks", "cuts", "fuzz", "faults")
BLOCK = re.compile(r"(<!-- reliability:([a-z]+) -->\n).*?(<!-- reliability: end -->)", re.DOTALL)


class Run(TypedDict):
    """One run of a part; `rows` are pairs of what was counted and how often, or how it went."""

    date: str
    revision: str
    seed: int | None
    rows: list[list[str | int | float]]
    failures: list[str]
    notes: list[str]


def newest(folder: Path) -> dict[str, Run]:
    """The records of the last runs, by part."""
    return {part: json.loads(path.read_text()) for part in PARTS if (path := folder / f"{part}.json").exists()}


def fill(page: str, runs: dict[str, Run]) -> str:
    """The page with its blocks made anew. Pure."""

    def block(match: re.Match[str]) -> str:
        run = runs.get(match[2])
        return f"{match[1]}{'Not run yet.' if run is None else _text(run)}\n{match[3]}"

    return BLOCK.sub(block, page)


def _text(run: Run) -> str:
    seed = "" if run["seed"] is None else f", seed {run['seed']}"
    lines = [f"Run on {run['date']} at revision {run['revision']}{seed}.", "", "| what | result |", "|---|---|"]
    lines += [f"| {_cell(what)} | {_cell(result)} |" for what, result in run["rows"]]
    lines += [f"| failures | {len(run['failures'])} |"]
    if run["failures"]:
        lines += ["", "What failed:", "", *(f"* {_cell(text)[:300]}" for text in run["failures"])]
    if run["notes"]:
        lines += ["", *(f"* {_cell(text)}" for text in run["notes"])]
    return "\n".join(lines)


def _cell(value: str | float) -> str:
    return " ".join(str(value).replace("|", "\\|").split())


def main() -> int:
    """Update the documentation; says what is other now."""
    data = Path(os.environ.get("KATA_DATA_DIR") or ROOT / ".kata/data")
    kept: dict[str, Run] = json.loads((DOCS / JSON).read_text()) if (DOCS / JSON).exists() else {}
    runs = {**kept, **newest(data / "reliability")}
    made = {JSON: json.dumps(runs, indent=1) + "\n", PAGE: fill((DOCS / PAGE).read_text(), runs)}
    for name, text in made.items():
        path = DOCS / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            print(path.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())

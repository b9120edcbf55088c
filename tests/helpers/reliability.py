"""Records of what was attacked, cut, fuzzed and starved: `make reliability-docs` makes docs/reliability.md of them."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from kata import paths

ROOT = Path(__file__).parents[2]
PARTS = ("attacks", "cuts", "fuzz", "faults")


def record(
    part: str,
    rows: Sequence[tuple[str, int | float | str]],
    *,
    failures: Sequence[str] = (),
    notes: Sequence[str] = (),
    seed: int | None = None,
) -> None:
    """Keep a run of `part` in the place of the one before: what was counted, what failed, what a reader has to know."""
    assert part in PARTS
    folder = paths.data_dir() / "reliability"
    folder.mkdir(parents=True, exist_ok=True)
    said = {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "revision": revision(),
        "seed": seed,
        "rows": list(rows),
        "failures": list(failures),
        "notes": list(notes),
    }
    half = folder / f".{part}.{os.getpid()}"
    half.write_text(json.dumps(said, indent=1) + "\n")
    half.rename(folder / f"{part}.json")


def revision() -> str:
    """What is checked out; "unknown" without git."""
    try:
        done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, check=False)
    except FileNotFoundError:
        return "unknown"
    return done.stdout.decode().strip() or "unknown"

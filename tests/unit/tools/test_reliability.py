"""The page of what was attacked is made of its JSON alone."""

from __future__ import annotations

import json
from pathlib import Path

from tools.reliability import DOCS, JSON, PAGE, PARTS, Run, fill, newest


def run(**changes: object) -> Run:
    made = {"date": "2026-01-02T03:04:05Z", "revision": "abc", "seed": 7, "rows": [["cuts", 50]]}
    return {**made, "failures": [], "notes": [], **changes}  # type: ignore[typeddict-item]


def test_the_documentation_is_what_its_json_makes() -> None:
    page = (DOCS / PAGE).read_text()
    assert all(f"<!-- reliability:{part} -->" in page for part in PARTS)
    assert fill(page, json.loads((DOCS / JSON).read_text())) == page, "make reliability-docs"


def test_a_block_says_what_was_run_and_what_failed() -> None:
    page = "a\n<!-- reliability:cuts -->\nold\n<!-- reliability: end -->\nb\n"
    said = fill(page, {"cuts": run(failures=["it | broke\nbadly"], notes=["slow"])})
    assert "old" not in said and said.startswith("a\n") and said.endswith("end -->\nb\n")
    for line in ("at revision abc, seed 7.", "| cuts | 50 |", "| failures | 1 |", "* it \\| broke badly", "* slow"):
        assert line in said
    assert "Not run yet." in fill(page, {})
    assert "seed" not in fill(page, {"cuts": run(seed=None)})


def test_records_are_found_by_their_part(tmp_path: Path) -> None:
    (tmp_path / "cuts.json").write_text(json.dumps(run()))
    (tmp_path / "other.json").write_text("no JSON")
    assert newest(tmp_path) == {"cuts": run()}
    assert newest(tmp_path / "missing") == {}

"""Linters are tests: what they find is printed as they print it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
SCRIPTS = (
    "bin/kata",
    "bin/kata-agent",
    "bin/kata-agent-ctl",
    ".ci/run",
    "tools/setup.sh",
    "tools/lock.sh",
    "src/kata/kernel/initrd.sh",
)

TOOLS: dict[str, list[str | Path]] = {
    "ruff check": [BIN / "ruff", "check", "--no-cache"],
    "ruff format": [BIN / "ruff", "format", "--check", "--no-cache"],
    "mypy": [BIN / "mypy"],
    "import contracts": [BIN / "lint-imports", "--no-cache"],
    "shellcheck": ["shellcheck", *SCRIPTS],
}


@pytest.mark.parametrize("tool", TOOLS)
def test_linter(tool: str) -> None:
    done = subprocess.run([str(word) for word in TOOLS[tool]], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"{tool}:\n{done.stdout}{done.stderr}", pytrace=False)

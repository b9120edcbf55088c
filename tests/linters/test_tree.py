"""What the tree promises: small files and functions, docstrings, nothing of any developer's machine."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILE_LINES = {"src": 420, "tests": 600, "tools": 420}
FUNCTION_LINES = 60

# Only what has a reason to be longer, and the reason.
LONGER: dict[str, str] = {}

MACHINE_PATHS = re.compile("/" + "work/(main|shared)|/" + "farm/|/tmp/" + "bash_jobs|/home/[a-z]|/root/" + "[.]pyenv")


def tracked(*patterns: str) -> list[Path]:
    """Files of the repository that match; those not committed yet are in it too."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).is_file()]


def ours() -> list[Path]:
    """Python files that people write."""
    return [path for path in tracked("*.py") if "generated" not in path.parts]


def fail(offenders: list[str]) -> None:
    """Print each offender on a line; none is success."""
    if offenders:
        pytest.fail("\n".join(offenders), pytrace=False)


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    """Every function, methods included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            yield node


def test_files_and_functions_are_small() -> None:
    offenders = []
    for path in ours():
        name = str(path.relative_to(ROOT))
        text = path.read_text()
        limit = FILE_LINES[name.split("/")[0]]
        if len(text.splitlines()) > limit and name not in LONGER:
            offenders.append(f"{name}: {len(text.splitlines())} lines, {limit} are the limit")
        for function in functions(ast.parse(text)):
            length = (function.end_lineno or 0) - function.lineno + 1
            if length > FUNCTION_LINES:
                offenders.append(f"{name}:{function.lineno}: {function.name} has {length} lines")
    fail(offenders)


def test_modules_say_what_they_are() -> None:
    fail(
        [
            str(path.relative_to(ROOT))
            for path in ours()
            if path.read_text().strip() and not ast.get_docstring(ast.parse(path.read_text()))
        ]
    )


def test_nothing_of_a_developers_machine() -> None:
    offenders = []
    for path in tracked():
        text = path.read_text(errors="replace")
        offenders += [f"{path.relative_to(ROOT)}: {found[0]}" for found in MACHINE_PATHS.finditer(text)]
    fail(offenders)


def test_links_in_the_documentation_lead_somewhere() -> None:
    offenders = []
    for path in tracked("*.md"):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
            if not (path.parent / target).exists():
                offenders.append(f"{path.relative_to(ROOT)}: {target}")
    fail(offenders)


def test_the_changelog_knows_this_version() -> None:
    from kata.version import __version__

    assert f"[{__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_generated_files_say_so() -> None:
    generated = ROOT / "src/kata/protocol/generated"
    fail([path.name for path in generated.rglob("*_pb2.py*") if "do not edit" not in path.read_text()[:400].lower()])


def test_every_room_has_tests() -> None:
    rooms = {path.name for path in (ROOT / "src/kata").iterdir() if (path / "__init__.py").exists()}
    tested = {path.name for path in (ROOT / "tests/unit").iterdir() if list(path.glob("test_*.py"))}
    fail(sorted(rooms - tested))


def test_tests_that_the_documentation_names_are_there() -> None:
    """A row of the threat model proves nothing if its test is gone."""
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", (ROOT / "docs/threat-model.md").read_text())
    assert len(named) > 50
    missing = [
        f"{path}::{name}"
        for path, name in named
        if not (ROOT / path).is_file() or (name and f"def {name}(" not in (ROOT / path).read_text())
    ]
    assert not missing, "\n".join(missing)

"""Two revisions of this project by the same parts, in turns: the one that is checked out here, and another.

`make bench BASE=<revision>`. The other one gets a worktree of git's in a temporary folder, an environment of its own
(`make setup`), a copy of the data, and a guest image made of its own sources. Each is measured by its own benchmark; a
revision that has none gets a copy of this one. All of it is removed at the end.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tools.bench import report
from tools.bench.machine import ROOT, circumstances
from tools.bench.report import Comparison, Grid, Part, Report, compare, tidy
from tools.bench.tables import tables, text
from tools.bench.world import BenchError

from kata import paths

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tools.bench.options import Options

SCRIPT = "tools/bench/__main__.py"
BASE, HERE = "base", "this"
ROUNDS = 4
"""Turns of the two at most: each round of a part has its own start, so several runs are in one."""
PATIENCE = 120.0
"""Seconds for a benchmark that was told to stop."""


class Tree(NamedTuple):
    """A checkout with its data."""

    root: Path
    data: Path


def run(options: Options) -> int:
    """Measure both and show the ratios; exit code 1 when a part of one failed."""
    here = Tree(ROOT, paths.data_dir())
    found: dict[str, list[Report]] = {BASE: [], HERE: []}
    with worktree(options.base) as base:
        rounds = min(ROUNDS, options.runs)
        for number in range(rounds):
            runs = options.runs * (number + 1) // rounds - options.runs * number // rounds
            order = ((BASE, base), (HERE, here))
            for name, tree in order if number % 2 == 0 else reversed(order):
                found[name].append(measure(tree, options, runs))
    failed = {
        f"{name}: {part}": why for name, all_of in found.items() for one in all_of for part, why in one.failed.items()
    }
    result = Report(both(found[BASE], found[HERE]), failed)
    show(result, options)
    return 1 if failed else 0


def show(result: Report, options: Options) -> None:
    """Tables, and the file beside the one of a plain run."""
    for name, part in result.parts.items():
        print(f"\n=== {name}: {options.base} and this\n")
        for table in tables(part):
            print(f"{text(table)}\n")
    for name, why in result.failed.items():
        print(f"bench: {name} failed: {why}")
    output = options.output.with_name("bench-compare.json")
    report.write(result, output)
    print(f"written to {output}")


# Section: what is made of the reports. Pure.


def both(base: list[Report], here: list[Report]) -> dict[str, Part]:
    """Every way's samples of one revision against the other's, and single figures side by side."""
    found = {}
    for name in here[0].parts:
        parts = {
            which: [one.parts[name] for one in of if name in one.parts] for which, of in ((BASE, base), (HERE, here))
        }
        if parts[BASE] and parts[HERE]:
            found[name] = Part(comparisons=_comparisons(parts), grids=_facts(parts), circumstances=circumstances())
    return found


def _comparisons(parts: dict[str, list[Part]]) -> list[Comparison]:
    """Samples that a part divides by several others are compared once."""
    units: dict[tuple[str, str], Comparison] = {}
    seen: list[tuple[str, list[float]]] = []
    for one in parts[HERE][0].comparisons:
        for name, way in one.ways.items():
            if (name, way.samples) not in seen:
                seen.append((name, way.samples))
                units[one.title, name] = one
    samples = {which: _samples(of) for which, of in parts.items()}
    return [
        compare(
            f"{title}: {way}",
            one.unit,
            BASE,
            {BASE: samples[BASE][title, way], HERE: samples[HERE][title, way]},
            one.better,
        )
        for (title, way), one in units.items()
        if (title, way) in samples[BASE]
    ]


def _samples(parts: list[Part]) -> dict[tuple[str, str], list[float]]:
    found: dict[tuple[str, str], list[float]] = {}
    for part in parts:
        for one in part.comparisons:
            for name, way in one.ways.items():
                found.setdefault((one.title, name), []).extend(way.samples)
    return found


def _facts(parts: dict[str, list[Part]]) -> list[Grid]:
    """The mean of each figure that both have."""
    means: dict[str, dict[str, float]] = {}
    for which, of in parts.items():
        names = [fact.name for fact in of[0].facts]
        values = {name: [fact.value for part in of for fact in part.facts if fact.name == name] for name in names}
        means[which] = {name: sum(found) / len(found) for name, found in values.items()}
    rows = {
        name: [tidy(means[BASE][name]), tidy(value), round(value / means[BASE][name], 3) if means[BASE][name] else 0.0]
        for name, value in means[HERE].items()
        if name in means[BASE]
    }
    return [Grid("Single figures", "each in its unit", [BASE, HERE, "ratio"], rows)] if rows else []


# Section: checkouts


def measure(tree: Tree, options: Options, runs: int) -> Report:
    """A run of one revision's benchmark, as a process of its own. Raises BenchError when it says nothing."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        output = Path(folder, "bench.json")
        words = ["--parts", *options.parts, "--runs", str(runs), "--sandboxes", str(options.sandboxes)]
        call(tree, [".venv/bin/python", "-I", SCRIPT, *words, "--output", os.fspath(output)], quiet=True)
        if not output.exists():
            raise BenchError(f"the benchmark of {tree.root} wrote no figures")
        return report.read(output)


@contextmanager
def worktree(revision: str) -> Iterator[Tree]:
    """The other revision, ready to run. Raises BenchError."""
    commit = commit_of(revision)
    folder = Path(tempfile.mkdtemp(prefix="bench-base-"))
    folder.chmod(0o711)  # QEMU reads its kernel in it, as a user of its own
    tree = Tree(folder / "tree", folder / "data")
    here = Tree(ROOT, paths.data_dir())
    try:
        must(here, ["git", "worktree", "add", "--quiet", "--detach", os.fspath(tree.root), "--", commit])
        shutil.copytree(here.data, tree.data, symlinks=True, ignore=shutil.ignore_patterns("templates", "bench*.json"))
        if not (tree.root / SCRIPT).exists():
            for name in ("tools/bench", "tests/helpers"):
                shutil.copytree(ROOT / name, tree.root / name, dirs_exist_ok=True)
            (tree.root / "tools/bench.py").unlink(missing_ok=True)
        must(tree, ["make", "setup"])
        must(tree, ["bin/kata", "setup"])
        yield tree
    finally:
        call(here, ["git", "worktree", "remove", "--force", os.fspath(tree.root)], quiet=True)
        shutil.rmtree(folder, ignore_errors=True)
        call(here, ["git", "worktree", "prune"], quiet=True)


def commit_of(revision: str) -> str:
    """Git's full name of it. Raises BenchError."""
    words = [
        "git",
        "-C",
        os.fspath(ROOT),
        "rev-parse",
        "--verify",
        "--quiet",
        "--end-of-options",
        revision + "^{commit}",
    ]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"git knows no revision {revision} here")
    return done.stdout.split()[-1]


def must(tree: Tree, words: list[str]) -> None:
    """Run a program in a checkout. Raises BenchError when it fails."""
    if code := call(tree, words):
        raise BenchError(f"{' '.join(words[:3])} … failed with exit code {code}")


def call(tree: Tree, words: list[str], *, quiet: bool = False) -> int:
    """Run a program in a checkout, with its data; its exit code. One that is interrupted has time to clear up."""
    env = {**os.environ, "KATA_DATA_DIR": os.fspath(tree.data)}
    out = subprocess.DEVNULL if quiet else None
    with subprocess.Popen(words, cwd=tree.root, env=env, stdin=subprocess.DEVNULL, stdout=out) as process:
        try:
            return process.wait()
        except BaseException:
            process.terminate()
            process.wait(PATIENCE)
            raise

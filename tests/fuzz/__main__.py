"""`make fuzz`: each target for a time of its own, guided by what of the code an input reaches (atheris).

Each runs in a process of its own, since a fuzzer ends by ending its process. Inputs that reach something new are kept
in the data directory, where the next run goes on from; what is a bug goes to the corpus in the source tree, whose files
`make test` runs again. Exit code 1 says that there were bugs.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

# An isolated interpreter (-I) does not look beside the script that it runs.
sys.path.append(str(Path(__file__).parents[2]))
from kata import paths
from tests.fuzz import targets
from tests.helpers.reliability import record

ROOT = Path(__file__).parents[2]
SLOWEST = 20
"""Seconds that one input may take at most; instrumented code is some ten times slower than it is in earnest."""
MEMORY_MIB = 1500
LONGEST = 16384
"""Bytes of an input; limits above it are for tests by hand."""
GRACE = 120
"""Seconds that a process may take beside its fuzzing: to load, and to run what was kept."""
RUNS = re.compile(rb"stat::number_of_executed_units:\s*(\d+)")
CRASHES = ("crash-*", "timeout-*", "oom-*", "leak-*")


class Outcome(NamedTuple):
    """What became of a target: inputs run, seconds, inputs kept, files of those that are bugs, and what else failed."""

    name: str
    inputs: int
    seconds: float
    kept: int
    bugs: list[Path]
    failure: str

    def __str__(self) -> str:
        return f"{self.inputs} inputs, {self.seconds:.0f} s, {self.kept} kept, {len(self.bugs)} crashes"

    @property
    def failures(self) -> list[str]:
        """What has to be looked at."""
        said = [f"{self.name}: {self.failure}"] if self.failure else []
        return [*(str(bug.relative_to(ROOT)) for bug in self.bugs), *said]


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--target", action="append", choices=targets.names(), help="only this one; may be repeated")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (60)")
    parser.add_argument("--child", choices=targets.names(), help=argparse.SUPPRESS)
    args, rest = parser.parse_known_args()
    if args.child:
        return child(args.child, rest)
    outcomes = []
    for name in args.target or targets.names():
        told = fuzz(name, args.seconds)
        outcomes.append(told)
        print(f"{name:18} {told}", *(f"  {failure}" for failure in told.failures), sep="\n", flush=True)
    failures = [failure for told in outcomes for failure in told.failures]
    record("fuzz", [(told.name, str(told)) for told in outcomes], failures=failures, notes=["make fuzz"])
    return 1 if failures else 0


def fuzz(name: str, seconds: int) -> Outcome:
    """Run one target in a process of its own."""
    target = targets.load(name)
    kept = paths.data_dir() / "fuzz" / name
    kept.mkdir(parents=True, exist_ok=True)
    target.corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds):
        (kept / f"seed-{number}").write_bytes(seed)
    before, begin = _bugs(target), time.monotonic()
    log = kept.with_suffix(".log")
    failure = _run(_argv(target, kept, seconds), log, seconds + GRACE)
    bugs = sorted(_bugs(target) - before)
    found = RUNS.search(log.read_bytes())
    if not found and not bugs:
        failure = failure or f"it did not run, see {log}"
    inputs = int(found[1]) if found else 0
    return Outcome(name, inputs, time.monotonic() - begin, len(list(kept.iterdir())), bugs, failure)


def _argv(target: targets.Target, kept: Path, seconds: int) -> list[str]:
    words = kept.with_suffix(".dict")
    words.write_text("".join(f'"{_escaped(token)}"\n' for token in target.tokens))
    return [
        *(sys.executable, "-I", __file__, "--child", target.name, str(kept), str(target.corpus)),
        f"-max_total_time={seconds}",
        f"-timeout={SLOWEST}",
        f"-rss_limit_mb={MEMORY_MIB}",
        f"-max_len={LONGEST}",
        f"-artifact_prefix={target.corpus}/",
        f"-dict={words}",
        "-print_final_stats=1",
    ]


def _run(argv: list[str], log: Path, patience: float) -> str:
    """Run a fuzzer to its end, which is a failure when it is not its own; that, or nothing."""
    with log.open("wb") as file:
        try:
            subprocess.run(argv, stdout=file, stderr=file, check=False, timeout=patience)
        except subprocess.TimeoutExpired:
            return f"it did not end, see {log}"
    return ""


def child(name: str, rest: list[str]) -> int:
    """Be the fuzzer of one target; never returns while it has time."""
    import atheris

    # To the end, since some modules are only imported when an input needs them.
    with atheris.instrument_imports(include=["kata"]):
        target = targets.load(name)
        atheris.Setup([name, *rest], target.run)
        atheris.Fuzz()
    return 0


def _bugs(target: targets.Target) -> set[Path]:
    return {path for pattern in CRASHES for path in target.corpus.glob(pattern)}


def _escaped(token: bytes) -> str:
    """As libFuzzer's dictionaries want it."""
    return "".join(chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\x{byte:02x}" for byte in token)


if __name__ == "__main__":
    os.nice(10)
    sys.exit(main())

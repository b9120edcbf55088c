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
    """What became of a target: inputs run, seconds, inputs kept, and the files of those that are bugs."""

    name: str
    inputs: int
    seconds: float
    kept: int
    bugs: list[Path]


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
        outcomes.append(fuzz(name, args.seconds))
        told = outcomes[-1]
        print(
            f"{name:20} {told.inputs:9} inputs {told.seconds:6.0f} s {told.kept:6} kept {len(told.bugs)} bugs",
            flush=True,
        )
        for bug in told.bugs:
            print(f"  {bug.relative_to(ROOT)}", flush=True)
    keep("make fuzz", outcomes)
    return 1 if any(told.bugs for told in outcomes) else 0


def keep(how: str, outcomes: list[Outcome]) -> None:
    """The record of a run, for docs/reliability.md."""
    rows = [
        (told.name, f"{told.inputs} inputs, {told.seconds:.0f} s, {told.kept} kept, {len(told.bugs)} crashes")
        for told in outcomes
    ]
    failures = [str(bug.relative_to(ROOT)) for told in outcomes for bug in told.bugs]
    record("fuzz", rows, failures=failures, notes=[how])


def fuzz(name: str, seconds: int) -> Outcome:
    """Run one target in a process of its own."""
    target = targets.load(name)
    kept = paths.data_dir() / "fuzz" / name
    kept.mkdir(parents=True, exist_ok=True)
    target.corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds):
        (kept / f"seed-{number}").write_bytes(seed)
    words = kept.with_suffix(".dict")
    words.write_text("".join(f'"{_escaped(token)}"\n' for token in target.tokens))
    before = _bugs(target)
    argv = [
        *(sys.executable, "-I", __file__, "--child", name, str(kept), str(target.corpus)),
        f"-max_total_time={seconds}",
        f"-timeout={SLOWEST}",
        f"-rss_limit_mb={MEMORY_MIB}",
        f"-max_len={LONGEST}",
        f"-artifact_prefix={target.corpus}/",
        f"-dict={words}",
        "-print_final_stats=1",
    ]
    begin = time.monotonic()
    with kept.with_suffix(".log").open("wb") as log:
        # Nothing but time decides here, so a fuzzer that does not end is ended.
        try:
            subprocess.run(argv, stdout=log, stderr=log, check=False, timeout=seconds + GRACE)
        except subprocess.TimeoutExpired:
            log.write(b"it did not end in time\n")
    said = kept.with_suffix(".log").read_bytes()
    if b"instrumented" not in said.lower() and not RUNS.search(said):
        print(said.decode("utf-8", "replace")[-2000:], file=sys.stderr)
    found = RUNS.search(said)
    bugs = sorted(_bugs(target) - before)
    return Outcome(name, int(found[1]) if found else 0, time.monotonic() - begin, len(list(kept.iterdir())), bugs)


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

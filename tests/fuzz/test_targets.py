"""What was a bug once is none again, nor is what hypothesis makes of seeds: a few inputs here, many in a soak."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import bounded, targets
from tests.fuzz.strategies import inputs
from tests.helpers.reliability import record

FEW, MANY = 60, 5000
CORPUS = [pytest.param(path, id=f"{path.parent.name}/{path.name}") for path in sorted(targets.CORPUS.glob("*/*"))]
LONG = 1 << 17
RUNS = [bytes([byte]) for byte in range(128) if not chr(byte).isalnum()]
RUNS += [
    b"a",
    b"0",
    b"a.",
    b"a-",
    b"a=b\n",
    b"a|",
    b"(a)",
    b"\x1b[",
    b"\x1b]",
    b"%41",
    b"../",
    b"\xff",
    b"[a]\n",
    b"\x0a\0",
]
TOML = ("agent_settings", "config_file")
"""Targets whose files are an operator's, and read by Python's tomllib: a key of thousands of parts takes it long."""
SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


@pytest.mark.parametrize("path", CORPUS)
def test_what_was_a_bug_is_none_any_more(path: Path) -> None:
    bounded.run(targets.load(path.parent.name), path.read_bytes())


def test_every_corpus_is_a_targets() -> None:
    assert {path.name for path in targets.CORPUS.iterdir()} <= set(targets.names())


@pytest.mark.parametrize("name", targets.names())
def test_seeds_and_words(name: str) -> None:
    target = targets.load(name)
    for data in (b"", *target.seeds, *target.tokens):
        bounded.run(target, data)


@pytest.mark.parametrize("name", targets.names())
def test_changed_seeds(name: str) -> None:
    search(name, FEW)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", targets.names())
def test_changed_seeds_for_long(name: str, outcomes: list[tuple[str, str]]) -> None:
    begin = time.monotonic()
    search(name, MANY)
    corpus = len(list(targets.load(name).corpus.glob("*")))
    outcomes.append((name, f"{MANY} inputs, {time.monotonic() - begin:.0f} s, {corpus} kept, 0 crashes"))


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", targets.names())
def test_long_runs_of_one_thing(name: str) -> None:
    """Whatever takes a time that grows with the square of the input is stuck here."""
    target = targets.load(name)
    seed = target.seeds[0]
    for unit in (*RUNS, *target.tokens):
        if name in TOML and unit == b"a.":
            continue
        run = unit * (LONG // len(unit))
        for place in {1, len(seed) // 2, len(seed)}:
            bounded.run(target, seed[:place] + run + seed[place:])


@pytest.fixture(scope="module")
def outcomes() -> Iterator[list[tuple[str, str]]]:
    """What each target of a soak came to, which is recorded in the end."""
    found: list[tuple[str, str]] = []
    yield found
    missing = sorted(set(targets.names()) - {name for name, _ in found})
    record(
        "fuzz",
        found,
        failures=missing,
        notes=["hypothesis, of make soak; failures are targets with a crash, or not run"],
    )


def search(name: str, examples: int) -> None:
    """Have hypothesis look for a bug of a target. What it fails with goes to the corpus, under a telling name."""
    target = targets.load(name)

    @settings(max_examples=examples, suppress_health_check=SLOW)
    @given(st.data())
    def run(data: st.DataObject) -> None:
        bounded.run(target, data.draw(inputs(target)))

    run()

"""What a benchmark says, as values: samples, ratios, tables of memory, on what machine. Pure, but for reading files.

Made by the parts, written and read as JSON by `__main__`, `docs` and `revisions`, shown by `tables` and `plot`. Nothing
is measured here.
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

FORMAT = 1
"""Of the JSON. A report of another format is not read."""
Better = Literal["less", "more"]


class ReportError(Exception):
    """A file that is no report, or one of another format."""


class Way(msgspec.Struct, frozen=True):
    """One way of doing a thing. `p99`: 99 of 100 are at least as good. `ratio`: its median by the base's."""

    median: float
    p99: float
    ratio: float
    samples: list[float]


class Comparison(msgspec.Struct, frozen=True):
    """The same thing by several ways, measured in turns. `base` is the way that the others are divided by."""

    title: str
    unit: str
    base: str
    ways: dict[str, Way]
    better: Better = "less"


class Grid(msgspec.Struct, frozen=True):
    """Figures that have no base: a row each, a column for each circumstance."""

    title: str
    unit: str
    columns: list[str]
    rows: dict[str, list[float]]


class Fact(msgspec.Struct, frozen=True):
    """A single figure."""

    name: str
    value: float
    unit: str


class Circumstances(msgspec.Struct, frozen=True):
    """Where and when a part was measured. `load` is of the minute before it (/proc/loadavg)."""

    revision: str
    date: str
    load: float
    machine: dict[str, str]


class Part(msgspec.Struct, frozen=True):
    """What one part of the benchmark found; `seconds` is how long it took."""

    comparisons: list[Comparison] = []
    grids: list[Grid] = []
    facts: list[Fact] = []
    seconds: float = 0.0
    circumstances: Circumstances | None = None


class Report(msgspec.Struct, frozen=True):
    """A whole run. `failed` says of each part that did not come to its end why."""

    parts: dict[str, Part]
    failed: dict[str, str] = {}
    format: int = FORMAT


def compare(
    title: str, unit: str, base: str, samples: Mapping[str, Sequence[float]], better: Better = "less"
) -> Comparison:
    """Sum samples up. `base` is one of their names."""
    whole = statistics.median(samples[base])
    ways = {
        name: Way(
            median=tidy(statistics.median(values)),
            p99=tidy(p99(values, better)),
            ratio=round(statistics.median(values) / whole, 3) if whole else 0.0,
            samples=[tidy(value) for value in values],
        )
        for name, values in samples.items()
    }
    return Comparison(title, unit, base, ways, better)


def p99(values: Sequence[float], better: Better = "less") -> float:
    """The value that 99 of 100 are at least as good as, between the two nearest samples."""
    if len(values) == 1:
        return values[0]
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return cuts[98] if better == "less" else cuts[0]


def tidy(value: float) -> float:
    """Four digits that count: more say nothing."""
    return float(f"{value:.4g}")


def joined(old: Report, new: Report) -> Report:
    """The parts of both by their names; a part that is in both is as in `new`."""
    return Report(parts=dict(sorted({**old.parts, **new.parts}.items())))


def write(report: Report, path: Path) -> None:
    """As JSON. Ways stay in their order, in which they are shown."""
    text = msgspec.json.format(msgspec.json.encode(report), indent=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text + b"\n")


def read(path: Path) -> Report:
    """Raises ReportError, OSError."""
    try:
        report = msgspec.json.decode(path.read_bytes(), type=Report)
    except msgspec.DecodeError as error:
        raise ReportError(f"{path} is no report of the benchmark: {error}") from error
    if report.format != FORMAT:
        raise ReportError(f"{path} has the format {report.format}, and this reads {FORMAT}; run make bench again")
    return report

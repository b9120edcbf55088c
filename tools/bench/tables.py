"""A report as tables: for a terminal, and in Markdown. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tools.bench.report import Comparison, Fact, Grid, Part


class Table(NamedTuple):
    """The first cell of each row is a name, the others are figures."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables(part: Part) -> Iterator[Table]:
    """All of one part."""
    yield from (_comparison(found) for found in part.comparisons)
    yield from (_grid(found) for found in part.grids)
    if part.facts:
        yield _facts(part.facts)


def text(table: Table) -> str:
    """In columns, for a terminal."""
    lines = [row for row in (table.head, *table.rows) if any(row)]
    widths = [max(len(row[column]) for row in lines) for column in range(len(table.head))]
    found = [table.title] if table.title else []
    for row in lines:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        found.append(f"  {'   '.join(cells)}".rstrip())
    return "\n".join(found)


def markdown(table: Table) -> str:
    """The same for the documentation."""
    lines = [f"| {' | '.join(table.head)} |", f"|{'---|' * len(table.head)}"]
    lines += [f"| {' | '.join(row)} |" for row in table.rows]
    return "\n".join(lines) if not table.title else "\n".join([f"**{table.title}**", "", *lines])


def number(value: float) -> str:
    """With as many digits as say something."""
    if value == 0 or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _comparison(found: Comparison) -> Table:
    tail = "99th percentile" if found.better == "less" else "1st percentile"
    rows = tuple(
        (
            name,
            number(way.median),
            number(way.p99),
            "1" if name == found.base else f"{way.ratio:.2f}",
            _runs(way.samples),
        )
        for name, way in found.ways.items()
    )
    return Table(f"{found.title} ({found.unit})", ("way", "median", tail, "ratio", "runs"), rows)


def _runs(samples: list[float]) -> str:
    return str(len(samples))


def _grid(found: Grid) -> Table:
    rows = tuple((name, *(number(value) for value in values)) for name, values in found.rows.items())
    return Table(f"{found.title} ({found.unit})", ("", *found.columns), rows)


def _facts(facts: list[Fact]) -> Table:
    return Table("", ("", "value"), tuple((fact.name, f"{number(fact.value)} {fact.unit}".strip()) for fact in facts))
